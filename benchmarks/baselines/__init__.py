"""Plain formulations of the models: what one writes first, on ragged graphs, as the baseline of the speed ratios."""
