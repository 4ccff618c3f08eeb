"""Words of the page's calculator: what if the batch, the dtype or the card were another?"""

from __future__ import annotations

from typing import Final

WHATIF: Final[dict[str, tuple[str, str]]] = {
    "whatif.title": ("What if", "假如"),
    "whatif.intro": (
        "Choose a step and a device: work, memory and the least time follow at once. The page works them out itself,"
        " from the closed forms of `flopwatch count`, `memory` and `roofline`.",
        "选一个步骤和一块设备：计算量、内存和最短用时随即得出。"
        "本页用 `flopwatch count`、`memory` 和 `roofline` 的闭式公式自行计算。",
    ),
    "whatif.no_script": ("The calculator needs JavaScript.", "计算器需要 JavaScript。"),
    "whatif.no_models": (
        "The record does not hold the models' numbers: make the report again with this version of flopwatch.",
        "记录中没有模型的各项尺寸：请用这个版本的 flopwatch 重新生成报告。",
    ),
    "whatif.bad_model": (
        "{model} cannot be worked out by this version of flopwatch: {why}",
        "这个版本的 flopwatch 无法计算 {model}：{why}",
    ),
    "whatif.controls": ("The step and the device", "步骤和设备"),
    "whatif.model": ("Model", "模型"),
    "whatif.phase": ("Phase", "阶段"),
    "whatif.batch": ("Batch", "批量"),
    "whatif.seq_len": ("Sequence", "序列长度"),
    "whatif.slider": ("{what}, slider", "{what}，滑块"),
    "whatif.dtype": ("dtype", "数据类型"),
    "whatif.optimizer": ("Optimizer", "优化器"),
    "whatif.recompute": ("Checkpointing", "重计算"),
    "whatif.recompute_none": ("none", "无"),
    "whatif.recompute_full": ("every layer", "每一层"),
    "whatif.attention": ("Attention", "注意力"),
    "whatif.attention_auto": ("auto: scores not kept", "auto：不保留得分"),
    "whatif.attention_flash": ("flash: redone ones counted", "flash：计入重复计算的得分"),
    "whatif.attention_math": ("math: scores written out", "math：写出得分"),
    "whatif.device": ("Device", "设备"),
    "whatif.here": ("This machine", "本机"),
    "whatif.results": ("What follows", "结果"),
    "whatif.params": ("Parameters", "参数"),
    "whatif.model_flops": ("FLOPs a step", "每步浮点运算量"),
    "whatif.again_flops": ("Computed again", "重复计算"),
    "whatif.flops_per_token": ("FLOPs per token", "每词元浮点运算量"),
    "whatif.peak_bytes": ("Peak memory", "峰值内存"),
    "whatif.limit_bytes": ("Limit", "上限"),
    "whatif.margin_bytes": ("Limit less peak", "上限减峰值"),
    "whatif.largest_batch": ("Largest batch", "最大批量"),
    "whatif.time_s": ("Least step time", "每步最短用时"),
    "whatif.tokens_per_s": ("At most", "最多"),
    "whatif.highest_mfu": ("Highest MFU", "最高 MFU"),
    "whatif.compute_bound_fraction": ("Bound by compute", "受算力限制"),
    "whatif.tokens_value": ("{n} tokens/s", "{n} 词元/秒"),
    "whatif.mfu_value": ("{percent} of {peak} ({source})", "{percent}，以 {peak} 计（{source}）"),
    "whatif.limit_value": ("{limit} ({source})", "{limit}（{source}）"),
    "whatif.bound_value": ("{percent} of the time", "{percent} 的时间"),
    "whatif.batch_more": ("{n} or more", "{n} 或更多"),
    "whatif.batch_at_most": ("at most {n}", "最多 {n}"),
    "whatif.batch_none": ("none: not even 1 fits", "无：批量 1 也放不下"),
    "whatif.batch_steps": ("{n}, in steps of {step}", "{n}（以 {step} 为步长）"),
    "whatif.batch_below": ("fewer than {step}", "小于 {step}"),
    "whatif.choice": (
        "{model}, {phase}, batch {batch} x {seq_len} tokens, {dtype}, on {device}",
        "{model}，{phase}，批量 {batch} x {seq_len} 词元，{dtype}，{device}",
    ),
    "whatif.choice_train": (
        "optimizer {optimizer}, checkpointing {recompute}, attention {attention}",
        "优化器 {optimizer}，重计算 {recompute}，注意力 {attention}",
    ),
    "whatif.fits": (
        "Fits: {peak} of {limit}; largest batch {batch}.",
        "放得下：{limit} 中用 {peak}；最大批量 {batch}。",
    ),
    "whatif.fits_tensors": (
        "The tensors fit, {peak} of {limit}, but an allocator may need more than what is left; largest batch {batch}.",
        "张量放得下：{limit} 中用 {peak}，但分配器所需可能超过余量；最大批量 {batch}。",
    ),
    "whatif.fits_not": (
        "Does not fit: it takes {peak}, and {limit} are allowed; largest batch {batch}.",
        "放不下：需要 {peak}，上限 {limit}；最大批量 {batch}。",
    ),
    "whatif.fits_unknown": ("Needs {peak}.", "需要 {peak}。"),
    "whatif.memory_unknown": ("Memory is not known.", "内存未知。"),
    "whatif.time_said": ("At least {time} a step, MFU at most {mfu}.", "每步至少 {time}，MFU 最多 {mfu}。"),
    "whatif.time_unknown": ("The least time is not known.", "最短用时未知。"),
    "whatif.bad_number": (
        "Batch is a whole number from 1 to {most_batch}, the sequence one from 1 to {most_seq_len}.",
        "批量是 1 到 {most_batch} 的整数，序列长度是 1 到 {most_seq_len} 的整数。",
    ),
    "whatif.unknown": ("not known: {why}", "未知：{why}"),
    "whatif.why_too_short": ("a sequence of one token takes another way", "只有一个词元的序列走另一条路径"),
    "whatif.why_uneven_rows": (
        "the experts get equal shares only of a multiple of {n} tokens: choose a batch that is a multiple of {step}",
        "只有词元数是 {n} 的倍数时各专家才平分：请选 {step} 的倍数作批量",
    ),
    "whatif.why_not_estimated": ("{why}", "{why}"),
    "whatif.why_no_limit": ("the memory of {device} is not known", "{device} 的内存未知"),
    "whatif.why_no_peak": ("{why}", "{why}"),
    "whatif.why_no_bandwidth": ("the bandwidth of {device} is not known", "{device} 的带宽未知"),
    "whatif.why_no_roofline": ("{why}", "{why}"),
    "whatif.no_peak_here": (
        "no {dtype} peak of this machine is in the record",
        "记录中没有本机的 {dtype} 峰值",
    ),
    "whatif.no_cache_here": (
        "the record does not hold the cache of this machine: make the report again with this version of flopwatch",
        "记录中没有本机的缓存大小：请用这个版本的 flopwatch 重新生成报告",
    ),
    "whatif.chart": ("Peak memory against batch", "峰值内存与批量"),
    "whatif.chart_said": (
        "The line is the peak at this sequence, dashed is the limit, the point is your choice."
        " Both axes are logarithmic.",
        "实线是该序列长度下的峰值，虚线是上限，圆点是所选批量。两轴均为对数刻度。",
    ),
    "whatif.parts": ("At the peak", "峰值时的构成"),
    "whatif.note_memory": (
        "Memory is the bytes of all tensors at the worst moment, with AdamW as torch has it on the device. A GPU's"
        " allocator takes more, in training up to a quarter: so the largest batch is an upper bound, and"
        " `flopwatch fit MODEL --predict-only --device CARD` replays the allocator. As there, a card's limit is its"
        " memory less 6 % for its context.",
        "内存是最坏时刻所有张量的字节数，AdamW 按 torch 在该设备上的方式；"
        "GPU 的分配器要占更多，训练时最多再加四分之一：所以最大批量只是上界，"
        "`flopwatch fit MODEL --predict-only --device CARD` 会重放分配器。"
        "与该命令相同，卡的上限是其内存减去 6 %（上下文）。",
    ),
    "whatif.note_time": (
        "Each operator takes the longer of FLOPs / peak and bytes / bandwidth, as in `flopwatch roofline`: a real step"
        " takes longer. FLOPs are those of every matmul, one multiply-add being 2. Nothing here was measured.",
        "每个算子的用时取浮点运算量 / 峰值与字节 / 带宽中较长者，与 `flopwatch roofline` 相同：真实的一步更慢。"
        "浮点运算量计入所有矩阵乘法，一次乘加为 2。此处没有任何实测值。",
    ),
}
