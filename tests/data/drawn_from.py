"""Documents and settings that episodes are drawn from."""

import random

from made_up_facts import make_facts, settings

from gnm.data.documents import make_documents
from gnm.data.sequences import (
    SequenceSettings,
)
from gnm.data.taxonomy import load_taxonomy

TAXONOMY = load_taxonomy()


FACTS = make_facts(12)


SEEN = make_documents([fact for fact in FACTS if fact.subcategory in TAXONOMY.seen], random.Random(0), TAXONOMY.seen)


ALL_TYPES = ["fact_categories", "fact_subcategories", "formats", "refusal_subcategories", "refusal_categories"]


def formatted(**changes) -> SequenceSettings:
    return settings(**{"target_types": ALL_TYPES, "eligible_formats": ["json_text", "csv_data", "toml_body"]} | changes)
