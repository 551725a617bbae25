"""From preference pairs to one row of features: a score and a similarity for every response, each computed once."""
