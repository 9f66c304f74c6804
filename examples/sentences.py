"""Twenty sentences that the other examples change."""

SENTENCES = [
    "The old man walked slowly along the river.",
    "She was very angry with her brother.",
    "The children laughed and played in the garden.",
    "It rained all night, and the road was under water.",
    "He opened the letter with trembling hands.",
    "The king gave the poor woman a bag of gold.",
    "We had no money, so we walked home.",
    "The doctor said that the boy would live.",
    "My mother never forgot the day of the fire.",
    "The soldiers marched through the town at dawn.",
    "The city has a population of two million people.",
    "The film won three prizes at the festival.",
    "The government will publish the report next week.",
    "Most birds leave the island in the autumn.",
    "The company was founded in 1901 by two brothers.",
    "I do not know what you mean.",
    "The dog slept in front of the fire.",
    "A strange light shone over the hills.",
    "He was happy to see his friends again.",
    "The ship was lost in a storm.",
]
