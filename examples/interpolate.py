"""Ways between two texts, and blends of several.

python examples/interpolate.py
"""

from sentences import SENTENCES

import ladle

model = ladle.LatentDiffusion.from_pretrained("base-en")

# Five texts on the way from one sentence to another. The ends are the sentences themselves.
for way in model.interpolate(SENTENCES[:10], SENTENCES[10:], steps=5, seed=0):
    for change in way:
        near, far = change.similarity, change.target_similarity
        print(f"{change.amount:.2f}  {change.text}   ({near:.2f} to the first, {far:.2f} to the last)")
    print()

# Two parts of one sentence and one part of another; then one sentence without what another one says.
print(model.blend([SENTENCES[0], SENTENCES[19]], weights=[2, 1], seed=0))
print(model.blend([SENTENCES[3], SENTENCES[19]], weights=[2, -1], seed=0))
