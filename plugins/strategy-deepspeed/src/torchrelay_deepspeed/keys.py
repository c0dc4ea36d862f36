"""The keys that DeepSpeed knows, so that a misspelt one is refused before any process starts. Imports no torch.

DeepSpeed passes over an unknown key in silence at the top and in most sections. The tests compare these tables with
what the installed DeepSpeed reads.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torchrelay.plugin.records import did_you_mean


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


KNOWN: Mapping[str, frozenset[str]] = {
    "": _words(
        """
        activation_checkpointing aio autotuning bf16 bfloat16 checkpoint comet comms_logger communication_data_type
        compile csv_monitor data_efficiency data_types dataloader_drop_last datastates_ckpt disable_allgather
        disable_python_gc dump_state expert_parallel flops_profiler fp16 gradient_accumulation_steps
        gradient_allreduce_op gradient_clipping gradient_predivide_factor hybrid_engine log_level
        managed_gradient_accumulation memory_breakdown optimizer pipeline prescale_gradients scheduler
        seq_parallel_communication_data_type sequence_parallel_size steps_per_print tensor_parallel tensorboard timers
        torch_autocast train_batch_size train_micro_batch_size_per_gpu use_data_before_expert_parallelism
        vocabulary_size wall_clock_breakdown wandb weight_quantization zero_allow_untested_optimizer
        zero_force_ds_cpu_optimizer zero_optimization
        """
    ),
    "activation_checkpointing": _words(
        "contiguous_memory_optimization cpu_checkpointing number_checkpoints partition_activations profile "
        "synchronize_checkpoint_boundary"
    ),
    "aio": _words(
        "block_size intra_op_parallelism overlap_events queue_depth single_submit use_gds"
    ),
    "bf16": _words(
        "bf16_master_weights_and_grads bf16_optimizer_states check_grad_overflow enabled immediate_grad_update"
    ),
    "checkpoint": _words(
        "checkpoint_serialization load_universal parallel_write tag_validation use_node_local_storage writer"
    ),
    "checkpoint.parallel_write": _words("pipeline_stage"),
    "checkpoint.writer": _words(
        "data_parallel decoupled io_buffer_double io_buffer_size io_multiplier show_statistics type"
    ),
    "comet": _words(
        "api_key enabled experiment_key experiment_name mode online project samples_log_interval workspace"
    ),
    "comms_logger": _words("debug enabled prof_all prof_ops verbose"),
    "compile": _words(
        """
        autoep_non_moe debug_log deepcompile double_buffer free_activation free_activation_threshold
        keep_all_input_tensors keep_int_input_tensors offload_activation offload_activation_pin_memory
        offload_opt_states offload_parameters passes symmetric_memory sync_after_allgather sync_after_reduce
        sync_before_allgather sync_before_reduce
        """
    ),
    "csv_monitor": _words("enabled job_name output_path"),
    "data_types": _words("buffer_dtype grad_accum_dtype keep_in_fp32_modules param_dtype"),
    "flops_profiler": _words(
        "detailed enabled module_depth output_file profile_step recompute_fwd_factor top_modules"
    ),
    "fp16": _words(
        "auto_cast consecutive_hysteresis enabled fp16_master_weights_and_grads hysteresis initial_scale_power "
        "loss_scale loss_scale_window min_loss_scale"
    ),
    "hybrid_engine": _words(
        "enable_cuda_graph enabled inference_tp_size max_out_tokens pin_parameters release_inference_cache "
        "tp_gather_partition_size"
    ),
    "optimizer": _words("legacy_fusion params type"),
    "scheduler": _words("params type"),
    "tensorboard": _words("enabled job_name output_path"),
    "timers": _words("throughput"),
    "timers.throughput": _words("enabled synchronized"),
    "torch_autocast": _words("dtype enabled lower_precision_safe_modules"),
    "wandb": _words("enabled group project team"),
    "zero_optimization": _words(
        """
        allgather_bucket_size allgather_partitions allgather_sequential compute_grad_norm contiguous_gradients
        elastic_checkpoint enable_sanity_checks gather_16bit_weights_on_model_save ignore_unused_parameters leaf_module
        legacy_stage1 load_from_fp32_weights log_trace_cache_warnings max_live_parameters max_reuse_distance
        memory_efficient_linear model_persistence_threshold module_granularity_threshold offload_optimizer
        offload_param overlap_comm override_module_apply param_persistence_threshold parameter_alignment
        pipeline_loading_checkpoint prefetch_bucket_size reduce_bucket_size reduce_scatter round_robin_gradients
        save_muon_momentum_buffer_in_memory stage stage3_allgather_sequential
        stage3_gather_16bit_weights_on_model_save stage3_max_live_parameters stage3_max_reuse_distance
        stage3_model_persistence_threshold stage3_module_granularity_threshold stage3_param_persistence_threshold
        stage3_prefetch_bucket_size stage3_use_all_reduce_for_fetch_params sub_group_size
        use_all_reduce_for_fetch_params use_multi_rank_bucket_allreduce zenflow zero_hpz_partition_size
        zero_quantized_gradients zero_quantized_nontrainable_weights zero_quantized_weights
        """
    ),
    "zero_optimization.leaf_module": _words("classes name_suffixes names"),
    "zero_optimization.offload_optimizer": _words(
        "buffer_count cpuadam_cores_perc device fast_init nvme_path pin_memory pipeline_read pipeline_write ratio "
        "super_offload"
    ),
    "zero_optimization.offload_param": _words(
        "buffer_count buffer_size device max_in_cpu nvme_path pin_memory"
    ),
    "zero_optimization.zenflow": _words(
        "auto_ratio full_warm_up_rounds offload overlap_step pt_reserved_cores_perc select_interval select_strategy "
        "steps_per_epoch topk_ratio update_interval"
    ),
}
"""Section, dotted, -> its keys. What DeepSpeed leaves to others (an optimizer's `params`, say) has no row."""

REMOVED: frozenset[str] = _words(
    """
    amp compression_training curriculum_learning eigenvalue elasticity graph_harvesting nebula progressive_layer_drop
    quantize_training sparse_attention sparse_gradients zero_optimization.mics_hierarchical_params_gather
    zero_optimization.mics_shard_size zero_optimization.zeropp_loco_param
    """
)
"""Keys of older releases that DeepSpeed refuses."""

RENAMED: Mapping[str, str] = {
    "zero_optimization.cpu_offload": '"offload_optimizer": {"device": "cpu"}',
    "zero_optimization.cpu_offload_param": '"offload_param": {"device": "cpu"}',
    "zero_optimization.cpu_offload_use_pin_memory": '"pin_memory" in the section that offloads',
    "zero_optimization.stage3_gather_fp16_weights_on_model_save": '"stage3_gather_16bit_weights_on_model_save"',
}
"""Keys that DeepSpeed still takes but warns of -> what to write."""


def complaints(values: Mapping[str, Any], section: str = "") -> Iterator[str]:
    """What is wrong with the keys of a section and of those inside it, one sentence each."""
    known = KNOWN[section]
    for key, value in values.items():
        path = f"{section}.{key}" if section else str(key)
        if path in REMOVED:
            yield f'"{path}" was removed from DeepSpeed; take it out'
        elif path in RENAMED:
            yield f'"{path}" is of older releases; write {RENAMED[path]}'
        elif key not in known:
            yield f'DeepSpeed has no key "{path}"{_instead(key, section)}'
        elif path in KNOWN and isinstance(value, Mapping):
            yield from complaints(value, path)
        elif path in KNOWN and value not in (None, "auto"):
            yield f'"{path}": {value!r} has to be a section of its own, with {_listed(path)}'


def _instead(key: object, section: str) -> str:
    close = did_you_mean(str(key), KNOWN[section])
    if close or not section:
        return close or "; https://www.deepspeed.ai/docs/config-json/ lists them"
    return f"; {_listed(section)} are the ones there"


def _listed(section: str) -> str:
    return ", ".join(sorted(KNOWN[section]))
