"""The cohort engine: the heads of many clients train together, with the numbers of one-by-one.

- `batches`: which samples each client sees in each step, for a whole bucket at once;
- `dual`: linear heads and the SGD family, in the span of each client's features;
- `primal`: any head and optimiser, batched over clients;
- `choice`: buckets of clients of like size, which form is the cheaper one for each, and who trains at once;
- `tables`: the clients' samples, padded, kept between rounds;
- `cohort`: trains the clients that a request names and adds them to the reply.
"""
