"""Returns what it got. One function of a module, as the simplest handlers are."""


def told(value):
    """A value as JSON can say it: bytes by their characters in Latin-1."""
    return value.decode("latin-1") if isinstance(value, (bytes, bytearray)) else value


def handle(data, context):
    """For each request its inputs, with their types, and all its headers, in the order of their names."""
    if data is None:
        return None
    answers = []
    for number, row in enumerate(data):
        headers = context.get_all_request_header(number)
        answers.append(
            {
                "model": context.model_name,
                "version": context.manifest["model"]["modelVersion"],
                "inputs": {name: [type(value).__name__, told(value)] for name, value in row.items()},
                "headers": {name: headers[name] for name in sorted(headers)},
            }
        )
    return answers
