"""What the verbs of ``aevb`` do. Their modules need PyTorch, and are imported when a verb is run."""
