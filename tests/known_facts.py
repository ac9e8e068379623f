"""Facts of four groups with wordings, for sequences in people's words."""

from gnm.data.taxonomy import load_taxonomy
from gnm.data.types import Fact

GROUPS = {
    "country": ("P17", ["France", "Japan", "Canada", "Spain"], "{} is located in"),
    "car_company": ("P176", ["Ford", "Toyota", "Honda", "Fiat"], "{} is produced by"),
    "sports_related_occupation": ("P641", ["soccer", "tennis", "hockey", "golf"], "{} plays"),
    "major_western_european_languages": ("P1412", ["French", "English", "Italian", "Latin"], "{} speaks"),
}
FACTS = [
    Fact(
        100 * g + n, f"Subject{100 * g + n} Name", prompt, objects[n % 4], objects[(n + 1 + n // 4 % 3) % 4],
        (f"It rained on that day, they say. {prompt.replace('{}', f'Subject{100 * g + n} Name')}",),
        tuple(prompt.replace("{}", f"Other{g}{i}") for i in range(2)),
        load_taxonomy().category_of(group), group, relation=relation,
    )
    for g, (group, (relation, objects, prompt)) in enumerate(GROUPS.items())
    for n in range(24)
]  # fmt: skip
