"""Control without retraining: a classifier of noised latents, any function of the estimate, and the number of words.

python examples/control.py
"""

import ladle
from ladle import Steer, SteerBy

model = ladle.LatentDiffusion.from_pretrained("base-en")

# A control learns from labelled texts in seconds. Here: people who speak, or facts.
SPEECH = ["I", "you", "we"]
rows = [{"text": f'"{who} {verb} {what}," said {name}.', "label": "speech"}
        for who in SPEECH for verb in ("know", "saw", "want", "need") for what in ("it", "him", "the money", "a horse")
        for name in ("she", "the boy", "Tom")]  # fmt: skip
rows += [{"text": f"The {thing} is {place} {country}.", "label": "fact"}
         for thing in ("city", "river", "school", "village", "company", "lake", "species", "station", "family", "town")
         for place in ("located in the north of", "one of the largest in", "found only in", "known all over")
         for country in ("France", "India", "Brazil", "Japan")]  # fmt: skip
control = model.fit_control(rows, minutes=0.3)

for label in ("fact", "speech"):
    print(f"steered towards '{label}':")
    for text in model.generate(5, seed=0, control=Steer(control, label, 4.0), candidates=4):
        print("   ", text)

# Any function of z0_hat [B, L, D] with a gradient steers too: here, towards the latents of a given sentence.
near = model.encode("The ship was lost in a storm.", wording=False).values
print("steered towards a sentence:")
steer = SteerBy(lambda z0_hat: -((z0_hat - near) ** 2).flatten(1).mean(1), 100.0)
for text in model.generate(5, seed=0, control=steer):
    print("   ", text)

print("six to eight words:")
for text in model.generate(5, seed=0, min_words=6, max_words=8):
    print("   ", text)
