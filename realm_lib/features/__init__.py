"""From preference pairs to one row of features: a score, a similarity and further signals for every response, each
computed once."""
