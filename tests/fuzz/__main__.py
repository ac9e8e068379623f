"""Damaged inputs by the thousand: `python tests/fuzz [--kind KIND] [--inputs N] [--first N]`, from any folder.

For each kind of file that the project reads, good examples are damaged at random, each by its own number, and read.
What is damaged must be refused in a sentence, or be read as what it was; no traceback, no more than ten seconds of CPU
time or two gigabytes. What breaks this is printed with its kind and number; the number makes the same input again.
"""

import argparse
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from fuzz.kinds import KINDS
from fuzz.trial import Trials


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", choices=KINDS, action="append", help="default: every kind")
    parser.add_argument("--inputs", type=int, default=10_000, help="in all (default: 10,000)")
    parser.add_argument("--first", type=int, default=0, help="number of the first input of each kind")
    options = parser.parse_args()
    kinds, failed = options.kind or list(KINDS), 0
    for name in kinds:
        with tempfile.TemporaryDirectory() as folder:
            trials = Trials(name, KINDS[name](Path(folder)))
            for number in range(options.first, options.first + -(-options.inputs // len(kinds))):
                if failure := trials.run(number):
                    print(f"{name} {number}: {failure}", flush=True)
        print(trials.told(), flush=True)
        failed += trials.failed
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
