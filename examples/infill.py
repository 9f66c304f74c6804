"""Blanks filled: what is given stays to the letter.

python examples/infill.py
"""

import ladle

model = ladle.LatentDiffusion.from_pretrained("base-en")

TEMPLATES = [
    "The ___ gave the poor woman ___.",
    "Once upon a time ___ lived in ___.",
    "___ was founded in 1901 by ___.",
    "She opened the door and ___",
    '"___," said the king.',
    "___ and so they never came home.",
    "The weather in ___ is ___ in winter.",
    "My brother ___ because ___.",
    "The river flows through ___ and ___.",
    "He took ___ out of his pocket.",
]
for template in TEMPLATES:
    print(template)
    for text in model.infill(template, n=2, seed=0):
        print("   ", text)
