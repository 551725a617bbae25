"""Features on a Ray cluster: the driver keeps texts and store, copies of a model compute, by Ray Data.

The driver is the process that runs notebook 01. It finds what the feature store lacks, sends it in pieces of neighbours
to actors that each hold the model, and commits each piece as it comes back. No disk is shared, and whatever dies, all
that came back is in the store: a lost actor's pieces are given to another, a driver that is started again asks for the
rest.
"""
