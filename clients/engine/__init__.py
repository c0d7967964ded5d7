"""The cohort engine: the heads of many clients train together, with the numbers of one-by-one.

- `batches`: which samples each client sees in each step, for a whole bucket at once;
- `dual`: linear heads and the SGD family, in the span of each client's features;
- `primal`: any head and optimiser, batched over clients;
- `choice`: buckets of clients of like size, and which form is the cheaper one for each;
- `cohort`: trains the clients that a request names and adds them to the reply.
"""
