"""How to make models: backbones, cuts and heads."""
