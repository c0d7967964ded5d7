"""The Flower ClientApp: takes a message apart, asks the resident host, and sends the answer."""

from __future__ import annotations

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from clients.host import Host, resident_host
from clients.outbound import send
from clients.state.files import state_folder
from fedgraft.submission import read_submission
from fedgraft.wire.records import unpack
from fedgraft.wire.requests import (
    BackboneRequest,
    ClassSumsRequest,
    CrossValidateRequest,
    DescribeRequest,
    EvaluateRequest,
    LeaveOutRequest,
    MixturesRequest,
    StatisticsRequest,
    TrainRequest,
)

app = ClientApp()


def host_of(context: Context) -> Host:
    """Return the host that a message's context speaks of."""
    submission = read_submission(context.run_config)
    node = context.node_config
    return resident_host(
        submission.scenario_json,
        int(node.get("partition-id", 0)),
        int(node.get("num-partitions", 1)),
        submission.run.threads,
        "partition-id" in node,
        submission.run.feature_dim,
        submission.run.device,
    )


@app.query("describe")
def describe(message: Message, context: Context) -> Message:
    """Answer `query.describe`."""
    unpack(message.content, DescribeRequest, "request query.describe")
    return send(message, *host_of(context).describe())


@app.query("backbone")
def backbone(message: Message, context: Context) -> Message:
    """Answer `query.backbone`."""
    request, groups = unpack(message.content, BackboneRequest, "request query.backbone")
    return send(message, host_of(context).backbone(request, groups), {})


@app.train()
def train(message: Message, context: Context) -> Message:
    """Answer `train`."""
    request, groups = unpack(message.content, TrainRequest, "request train")
    folder = state_folder(read_submission(context.run_config).run)
    return send(message, *host_of(context).train(request, groups, folder))


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Answer `evaluate`."""
    request, groups = unpack(message.content, EvaluateRequest, "request evaluate")
    folder = state_folder(read_submission(context.run_config).run)
    return send(message, *host_of(context).evaluate(request, groups, folder))


@app.query("statistics")
def statistics(message: Message, context: Context) -> Message:
    """Answer `query.statistics`."""
    request, groups = unpack(message.content, StatisticsRequest, "request query.statistics")
    return send(message, *host_of(context).statistics(request, groups))


@app.query("class_sums")
def class_sums(message: Message, context: Context) -> Message:
    """Answer `query.class_sums`."""
    request, groups = unpack(message.content, ClassSumsRequest, "request query.class_sums")
    return send(message, *host_of(context).class_sums(request, groups))


@app.query("cross_validate")
def cross_validate(message: Message, context: Context) -> Message:
    """Answer `query.cross_validate`."""
    request, groups = unpack(message.content, CrossValidateRequest, "request query.cross_validate")
    return send(message, *host_of(context).cross_validate(request, groups))


@app.query("leave_out")
def leave_out(message: Message, context: Context) -> Message:
    """Answer `query.leave_out`."""
    request, groups = unpack(message.content, LeaveOutRequest, "request query.leave_out")
    return send(message, *host_of(context).leave_out(request, groups))


@app.query("mixtures")
def mixtures(message: Message, context: Context) -> Message:
    """Answer `query.mixtures`."""
    request, groups = unpack(message.content, MixturesRequest, "request query.mixtures")
    return send(message, *host_of(context).mixtures(request, groups))
