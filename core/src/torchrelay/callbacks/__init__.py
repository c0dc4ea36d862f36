"""Callbacks: what acts at moments of a run without being part of the module."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torchrelay.lazy import attach

if TYPE_CHECKING:
    from torchrelay.callbacks.callback import Callback as Callback
    from torchrelay.callbacks.callback import Checkpointer as Checkpointer
    from torchrelay.callbacks.device_stats_monitor import DeviceStatsMonitor as DeviceStatsMonitor
    from torchrelay.callbacks.early_stopping import EarlyStopping as EarlyStopping
    from torchrelay.callbacks.early_stopping import EarlyStoppingReason as EarlyStoppingReason
    from torchrelay.callbacks.gradient_accumulation_scheduler import (
        GradientAccumulationScheduler as GradientAccumulationScheduler,
    )
    from torchrelay.callbacks.lambda_callback import LambdaCallback as LambdaCallback
    from torchrelay.callbacks.lr_monitor import LearningRateMonitor as LearningRateMonitor
    from torchrelay.callbacks.model_checkpoint import ModelCheckpoint as ModelCheckpoint
    from torchrelay.callbacks.model_summary import ModelSummary as ModelSummary
    from torchrelay.callbacks.model_summary import RichModelSummary as RichModelSummary
    from torchrelay.callbacks.on_exception_checkpoint import (
        OnExceptionCheckpoint as OnExceptionCheckpoint,
    )
    from torchrelay.callbacks.prediction_writer import BasePredictionWriter as BasePredictionWriter
    from torchrelay.callbacks.progress_bar import ProgressBar as ProgressBar
    from torchrelay.callbacks.rich_progress import RichProgressBar as RichProgressBar
    from torchrelay.callbacks.rich_progress import RichProgressBarTheme as RichProgressBarTheme
    from torchrelay.callbacks.stochastic_weight_averaging import (
        StochasticWeightAveraging as StochasticWeightAveraging,
    )
    from torchrelay.callbacks.throughput_monitor import ThroughputMonitor as ThroughputMonitor
    from torchrelay.callbacks.timer import Timer as Timer
    from torchrelay.callbacks.tqdm_progress import TQDMProgressBar as TQDMProgressBar
    from torchrelay.callbacks.weight_averaging import EMAWeightAveraging as EMAWeightAveraging
    from torchrelay.callbacks.weight_averaging import WeightAveraging as WeightAveraging
else:
    __getattr__, __dir__, __all__ = attach(
        __name__,
        {
            "BasePredictionWriter": ".prediction_writer",
            "Callback": ".callback",
            "Checkpointer": ".callback",
            "DeviceStatsMonitor": ".device_stats_monitor",
            "EMAWeightAveraging": ".weight_averaging",
            "EarlyStopping": ".early_stopping",
            "EarlyStoppingReason": ".early_stopping",
            "GradientAccumulationScheduler": ".gradient_accumulation_scheduler",
            "LambdaCallback": ".lambda_callback",
            "LearningRateMonitor": ".lr_monitor",
            "ModelCheckpoint": ".model_checkpoint",
            "ModelSummary": ".model_summary",
            "OnExceptionCheckpoint": ".on_exception_checkpoint",
            "ProgressBar": ".progress_bar",
            "RichModelSummary": ".model_summary",
            "RichProgressBar": ".rich_progress",
            "RichProgressBarTheme": ".rich_progress",
            "StochasticWeightAveraging": ".stochastic_weight_averaging",
            "TQDMProgressBar": ".tqdm_progress",
            "ThroughputMonitor": ".throughput_monitor",
            "Timer": ".timer",
            "WeightAveraging": ".weight_averaging",
        },
    )
