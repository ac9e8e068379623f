"""From saved evaluations to tables and figures; nothing here runs a model."""
