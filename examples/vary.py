"""Variations of a text, from near to free, and paraphrases.

python examples/vary.py
"""

from sentences import SENTENCES

import ladle

model = ladle.LatentDiffusion.from_pretrained("base-en")

# The strength is the diffusion time to which the latents are noised: 0 draws other words, 1 is a free sample.
for sentence in SENTENCES[:10]:
    print(sentence)
    for strength in (0.2, 0.5, 0.8):
        change = model.vary(sentence, strength, seed=0)[0]
        print(f"  {strength:.1f}  {change.text}   (similarity {change.similarity:.2f}, BLEU {change.bleu:.0f})")

# Near in meaning, far in words.
print()
for change in model.paraphrase(SENTENCES[:10], seed=0):
    print(f"{change.source}\n  -> {change.text}   (similarity {change.similarity:.2f}, BLEU {change.bleu:.0f})")
