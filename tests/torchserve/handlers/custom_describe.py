"""A handler that describes itself where `customized=true` asks for it."""


class Describes:
    """Its metadata is what describe_handle says."""

    def initialize(self, context):
        """Keeps the context: whether a call is a description stands in it."""
        self.context = context

    def describe_handle(self):
        """What is shown as customizedMetadata."""
        return {"inputs": ["x"], "of": self.context.model_name}

    def handle(self, data, context):
        """TorchServe asks with a header `describe`."""
        if context.get_request_header(0, "describe") == "True":
            return [self.describe_handle()]
        return ["predicted" for _ in data]
