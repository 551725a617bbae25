"""The reward: text in, one number out; and the combiner that makes the number of two features."""
