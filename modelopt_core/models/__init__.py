"""Networks: architectures and their specs, several as one, who a model is, the grids that weights lie on."""
