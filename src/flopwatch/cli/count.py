"""`flopwatch count`: how much work a model is."""
from typing import Annotated
from cyclopts import Parameter
from flopwatch.cli.options import *

def count(*models: str, batch: Count = 1, seq: SeqLen|None = None, model_options: ModelOptions = ModelOptions(), output: OutputOptions = OutputOptions()) -> None:
    """Parameters and FLOPs."""
    print(models, batch, seq, model_options, output)
