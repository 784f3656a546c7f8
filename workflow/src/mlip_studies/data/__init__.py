"""Data layer: downloads, readers of public layouts, the canonical store, splits and per-element regression."""
