"""Networks as numbers: ModelSpec, its parameters, presets and importers. Knows no batch, dtype or device."""
