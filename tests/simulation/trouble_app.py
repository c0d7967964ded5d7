"""A ClientApp whose answers go wrong in the ways that answers can."""

from __future__ import annotations

import os
import signal

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from fedgraft.errors import WireError

app = ClientApp()


@app.query("place")
def place(message: Message, context: Context) -> Message:
    facts = ConfigRecord({"pid": os.getpid(), "part": int(context.node_config["partition-id"])})
    return Message(RecordDict({"place": facts}), reply_to=message)


@app.query("die")
def die(message: Message, context: Context) -> Message:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


@app.query("refuse")
def refuse(message: Message, context: Context) -> Message:
    raise WireError("the request names no clients")


@app.query("stumble")
def stumble(message: Message, context: Context) -> Message:
    return {}["weights"]
