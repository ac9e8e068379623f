"""Made-up facts and records of every subcategory, and settings to draw from them, for the tests of this folder."""

from gnm.data.sequences import SequenceSettings
from gnm.data.taxonomy import load_taxonomy
from gnm.data.types import Fact

SAMPLING = {
    "num_paraphrase_from_facts_to_learn": 3,
    "num_true_output_neighbor_from_facts_to_learn": 2,
    "num_paraphrase_from_facts_to_refuse": 2,
    "num_true_output_neighbor_from_facts_to_refuse": 2,
    "num_paraphrase_from_other_facts": 2,
    "num_true_output_neighbor_from_other_facts": 1,
    "max_total_io_pairs_per_sample": 100,
    "num_in_future_to_pull_back_future_paraphrase": 4,
}


def make_facts(per_subcategory: int) -> list[Fact]:
    """Facts with two paraphrases, two neighbours and one prompt of the other types each; ids from 0."""
    taxonomy = load_taxonomy()
    facts = []
    for subcategory in taxonomy.subcategories:
        objects = taxonomy.members(subcategory)
        for number in range(per_subcategory):
            fact_id = len(facts)
            facts.append(
                Fact(
                    fact_id=fact_id,
                    subject=f"Subject {fact_id}",
                    prompt="{} belongs with",
                    true=objects[(number + 1) % len(objects)],
                    false=objects[number % len(objects)],
                    paraphrases=(f"Subject {fact_id} goes with", f"They put Subject {fact_id} with"),
                    neighbours=(f"Neighbour {fact_id} goes with", f"They put Neighbour {fact_id} with"),
                    category=taxonomy.category_of(subcategory),
                    subcategory=subcategory,
                    attributes=(f"Opposite {fact_id} goes with",),
                    generations=(f"About Subject {fact_id}:",),
                )
            )
    return facts


def make_record(**changes) -> dict:
    """A CounterFact record as the hub has it, with a leading blank in its objects."""
    record = {
        "case_id": 7,
        "pararel_idx": 1,
        "requested_rewrite": {
            "prompt": "{} was written in",
            "relation_id": "P1",
            "target_new": {"str": " Swedish", "id": "Q1"},
            "target_true": {"str": " French", "id": "Q2"},
            "subject": "Harbour Song",
        },
        "paraphrase_prompts": ["Long ago. Harbour Song was composed in"],
        "neighborhood_prompts": ["Hill Song was written in"],
        "attribute_prompts": [],
        "generation_prompts": ["Harbour Song is"],
    }
    return record | changes


def settings(**changes) -> SequenceSettings:
    """Training settings of seen fact groups, three documents a sequence; `sampling` changes single counts."""
    given = {
        "target_types": ["fact_categories", "fact_subcategories"],
        "groups": "seen",
        "sequence_length": 3,
        "unlearning": False,
        "split": "train",
        "sampling": SAMPLING | changes.pop("sampling", {}),
    }
    return SequenceSettings.model_validate(given | changes)
