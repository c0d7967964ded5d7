"""What a host answers to each request, in the words of `fedgraft.wire.requests`.

- `train`: the reply to a request to train, once whatever the number of times that it is asked;
- `local_round`: what the clients that it names do in the round;
- `kept_answers`: the last answers, for requests that come again;
- `evaluate`: the received head, and the clients' own heads, on validation parts;
- `queries`: sums and counts over training samples, and heads in closed form; nobody trains.
"""
