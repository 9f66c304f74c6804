"""Directions of the latent space: learnt from labelled sentences, used on others; and sums of texts.

python examples/edit.py
"""

from sentences import SENTENCES

import ladle
from ladle.editing.directions import fit_direction

model = ladle.LatentDiffusion.from_pretrained("base-en")

# A direction from sad to happy, from a few sentences. (A file of hundreds of rows is better: `ladle fit direction`.)
HAPPY = ["happy", "glad", "cheerful", "delighted", "full of joy", "merry", "pleased", "proud", "lucky", "content"]
SAD = ["sad", "unhappy", "miserable", "in despair", "full of sorrow", "gloomy", "afraid", "ashamed", "ill", "lonely"]
PEOPLE = ["The girl was", "My brother is", "They were", "The old woman felt", "He looked", "The king seemed"]
rows = [
    {"text": f"{person} {word}.", "label": label}
    for label, words in (("happy", HAPPY), ("sad", SAD))
    for word in words
    for person in PEOPLE
]
direction = fit_direction(model.parts, rows, towards="happy")
print(f"its probe is right on {direction.accuracy['value']:.0%} of the rows that it did not see")

for sentence in SENTENCES[:10]:
    print(sentence)
    for strength in (-1.5, 1.5):
        change = model.edit(sentence, direction=direction, strength=strength, seed=0)[0]
        before, after = change.attribute_before, change.attribute_after
        print(f"  {strength:+.1f}  {change.text}   (happy: {before:.2f} -> {after:.2f})")

# What is to the third text as the second is to the first?
print(model.analogy("He is happy.", "He was happy.", "The dog sleeps in front of the fire.", seed=0))
