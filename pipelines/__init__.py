"""How data flows: configuration, datasets, training, stores, tracking, evaluation, report."""
