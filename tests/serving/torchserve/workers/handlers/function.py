"""A function called `handle` at the module's level: called once without data, to initialize."""

STATE = {}


def handle(data, context):
    if data is None:
        STATE["model_dir"] = context.system_properties["model_dir"]
        return None
    return [{"style": "function", "initialized": "model_dir" in STATE} for _ in data]
