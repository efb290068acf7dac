"""Reads what a scraper or a collector gets from tokenward, by definitions that others wrote, and says what is in it as JSON.

    read.py openmetrics <page      by prometheus_client's strict parser
    read.py otlp <message          by OpenTelemetry's own protobuf definitions
"""

import json
import sys


def openmetrics(page: str) -> dict:
    from prometheus_client.openmetrics.parser import text_string_to_metric_families

    families = list(text_string_to_metric_families(page))
    samples = [sample for family in families for sample in family.samples]
    exemplars = [
        {"sample": sample.name, "value": sample.exemplar.value, "timestamp": float(sample.exemplar.timestamp), **sample.exemplar.labels}
        for sample in samples
        if sample.exemplar
    ]
    counters = {
        family.name: sum(sample.value for sample in family.samples if sample.name.endswith("_total"))
        for family in families
        if family.type == "counter"
    }
    return {"families": len(families), "exemplars": exemplars, "counters": counters}


def otlp(message: bytes) -> dict:
    from google.protobuf.unknown_fields import UnknownFieldSet
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
    from opentelemetry.proto.trace.v1.trace_pb2 import Span

    request = ExportTraceServiceRequest.FromString(message)
    scopes = [scope for resource in request.resource_spans for scope in resource.scope_spans]
    spans = [span for scope in scopes for span in scope.spans]
    return {
        "unknown": sum(len(UnknownFieldSet(one)) for one in [request, *request.resource_spans, *scopes, *spans]),
        "scopes": [[scope.scope.name, scope.scope.version] for scope in scopes],
        "spans": [
            {
                "name": span.name,
                "kind": Span.SpanKind.Name(span.kind),
                "trace_id": span.trace_id.hex(),
                "parent": span.parent_span_id.hex(),
            }
            for span in spans
        ],
    }


if __name__ == "__main__":
    data = sys.stdin.buffer.read()
    read = openmetrics(data.decode()) if sys.argv[1] == "openmetrics" else otlp(data)
    json.dump(read, sys.stdout)
