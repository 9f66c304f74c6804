"""Embeddings: which sentences mean nearly the same?

python examples/embed.py
"""

from sentences import SENTENCES

import ladle

model = ladle.LatentDiffusion.from_pretrained("base-en")
questions = ["A ship sank at sea.", "The movie was honoured.", "A child will survive.", "Children were having fun."]
known, asked = model.embed(SENTENCES), model.embed(questions)
for question, row in zip(questions, asked @ known.T, strict=True):
    best = int(row.argmax())
    print(f"{question}  ->  {SENTENCES[best]}   ({row[best]:.2f})")
