"""The model of this example, a plugin: BERT's encoder with mean pooling, and a linear classifier over it."""

from pydantic import PositiveInt
from torch import Tensor, nn

from model_defs import register_model
from model_defs.bert import Bert, BertParams


class SentenceClassifierParams(BertParams, frozen=True, extra="forbid", strict=True):
    """BERT's sizes, and the number of classes."""

    num_classes: PositiveInt = 2


@register_model("sentence_classifier", params=SentenceClassifierParams)
class SentenceClassifier(nn.Module):
    """Tells a sentence's class."""

    def __init__(self, params: SentenceClassifierParams) -> None:
        super().__init__()
        self.bert = Bert(params)
        self.classifier = nn.Linear(params.hidden_size, params.num_classes)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:  # (B, S) int64 each
        """The logits, (B, num_classes)."""
        return self.classifier(self.bert(input_ids, attention_mask))
