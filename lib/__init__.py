"""Library behind the notebooks: scBERT, its training, its baselines and the evaluation of all of them."""
