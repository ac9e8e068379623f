"""From CounterFact records to sequences of documents with instructions and queries."""
