"""Fetch backbones, the paper's checkpoints and its data set: `python download_models.py --list` shows them."""

from gnm.weights.downloads import main

if __name__ == "__main__":
    main()
