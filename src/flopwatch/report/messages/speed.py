"""Words about how fast a step is and could be: bench, utilization, peak, roofline, devices, mfu, compare."""

from __future__ import annotations

from typing import Final

SPEED: Final[dict[str, tuple[str, str]]] = {
    # bench
    "bench.title": (
        "{model}: {phase}, {batch} x {seq_len} tokens, {dtype}",
        "{model}：{phase}，{batch} x {seq_len} 词元，{dtype}",
    ),
    "bench.title_samples": ("{model}: {phase}, batch {batch}, {dtype}", "{model}：{phase}，批量 {batch}，{dtype}"),
    "bench.optimizer": ("Optimizer", "优化器"),
    "bench.device": ("Device", "设备"),
    "bench.step": ("Step time", "每步用时"),
    "bench.step_value": (
        "{median} [{p10}, {p90}], median [p10, p90] of {n} samples after {n_warmup} warm-up steps",
        "{median} [{p10}, {p90}]：预热 {n_warmup} 步后 {n} 个样本的中位数 [p10, p90]",
    ),
    "bench.tokens": ("Throughput", "吞吐量"),
    "bench.model_rate": ("Model FLOP/s", "模型算力"),
    "bench.hardware_rate": ("Hardware FLOP/s", "硬件算力"),
    "bench.memory": ("Peak memory", "峰值内存"),
    "bench.memory_beside": ("{measured}; predicted {predicted} ({error})", "{measured}；预测 {predicted}（{error}）"),
    "bench.no_memory": ("n/a: it was not counted", "未知：没有统计"),
    "bench.per_token": ("A token", "每词元用时"),
    "bench.per_token_value": (
        "{step} in each sequence ({batch} at once, {n_keys} keys each)",
        "每个序列 {step}（{batch} 个序列同时解码，每个有 {n_keys} 个键）",
    ),
    "bench.token_work": ("A token's work", "每词元的工作"),
    "bench.token_work_value": (
        "{flops}, {read} read at least (weights {weights} a step, KV cache {cache} a step)",
        "{flops}，至少读取 {read}（每步：权重 {weights}，KV 缓存 {cache}）",
    ),
    "bench.token_work_unknown": ("{flops}; bytes n/a: {reason}", "{flops}；字节数未知：{reason}"),
    "bench.curve": ("Batches that were timed", "计时过的批量"),
    "bench.curve_end": (
        "{n_runs} runs; {end}; of batches that are equally fast the smallest is taken",
        "共运行 {n_runs} 次；{end}；速度相同的批量取最小的一个",
    ),
    "bench.oom": ("out of memory", "内存不足"),
    "bench.failed": ("did not run", "未能运行"),
    "bench.plan": (
        "A step of {n} sequences: {steps} x batch {micro} (--accumulate {steps}), {rate} tokens/s",
        "每步 {n} 个序列：{steps} x 批量 {micro}（--accumulate {steps}），{rate} 词元/秒",
    ),
    "bench.plan_between": (
        "A step of {n} sequences: {steps} x batch {micro} (--accumulate {steps}),"
        " about {rate} tokens/s (between batches that were timed)",
        "每步 {n} 个序列：{steps} x 批量 {micro}（--accumulate {steps}），约 {rate} 词元/秒（由计时过的相邻批量推得）",
    ),
    "bench.choices": ("One thing changed at a time", "每次只改一项"),
    "bench.choices_note": (
        "against the base, timed before and after; base again shows what the machine itself does",
        "与基准相比，基准在前后各计时一次；重测的基准反映机器自身的波动",
    ),
    "bench.in_turn": ("timed in turn with the base: {names}", "与基准轮流计时的有：{names}"),
    "bench.pays": ("pays", "划算"),
    "bench.disturbed": ("is unsure: others used its cores", "不确定：其他进程占用了核心"),
    "bench.same_step": ("is the same step", "是同一步"),
    "bench.costs": ("costs", "不划算"),
    "bench.mbu": ("MBU", "MBU"),
    "bench.mbu_value": ("{percent} of {bandwidth} ({source})", "{bandwidth} 的 {percent}（{source}）"),
    "bench.mbu_unknown": ("n/a of the {kind} bandwidth: {reason}", "相对{kind}带宽：未知（{reason}）"),
    "gap.title": ("Where {step} go, {least} of them at best", "{step} 花在哪里（理想情况下只需 {least}）"),
    "gap.matmul": ("matmuls", "矩阵乘法"),
    "gap.attention": ("attention", "注意力"),
    "gap.memory": ("elementwise, norms, loss", "逐元素运算、归一化、损失"),
    "gap.optimizer": ("optimizer", "优化器"),
    "gap.overhead": ("Python and dispatch", "Python 与算子派发"),
    "gap.data": ("data (made beforehand, not timed)", "数据（预先生成，不计时）"),
    "gap.unexplained": ("unexplained", "原因不明"),
    "gap.total": ("step", "整步"),
    "gap.note": (
        "roofline: {source}; the step took {profiled} under the profiler",
        "屋顶线：{source}；在性能分析器下这一步用时 {profiled}",
    ),
    "gap.alone": (
        "the matmuls alone, at these shapes, take {alone}",
        "同样形状的矩阵乘法单独运行需要 {alone}",
    ),
    # utilization
    "use.same": ("as MFU: nothing was computed again", "与 MFU 相同：没有任何重算"),
    "use.share": ("{percent} of {what}", "{percent}，分母为 {what}"),
    "use.source": ("{source}, {kind}", "{source}，{kind}"),
    "use.unknown": ("n/a of the {kind} peak: {reason}", "相对{kind}峰值：未知（{reason}）"),
    "use.no_reason": (
        "no peak is known; give one with --peak-tflops",
        "没有已知的峰值；可用 --peak-tflops 给出",
    ),
    "use.above": (
        "! {name} is {percent} of {peak}: above 100 % means a wrong peak, count or clock (see the warnings)",
        "! {name} 为 {peak} 的 {percent}：超过 100 % 说明峰值、统计或时钟有误（见警告）",
    ),
    "use.denominator": ("of {what}, convention {convention}", "分母为 {what}，约定 {convention}"),
    # peak
    "peak.title": ("{device}: {dtype}", "{device}：{dtype}"),
    "peak.rate": ("Matmul rate", "矩阵乘法算力"),
    "peak.rate_value": ("{rate} ({shape})", "{rate}（{shape}）"),
    "peak.bandwidth": ("Bandwidth", "带宽"),
    "peak.datasheet": ("Of datasheet", "占数据手册"),
    "peak.datasheet_value": ("{percent} of {peak} ({source})", "{peak} 的 {percent}（{source}）"),
    "peak.no_datasheet": (
        "n/a: no published peak of this device and dtype is known",
        "未知：没有此设备在此数据类型下的公开峰值",
    ),
    # roofline
    "roofline.title": (
        "{model}: {phase}, batch {batch} x {seq_len}, {dtype}, at best on {device}",
        "{model}：{phase}，批量 {batch} x {seq_len}，{dtype}，在 {device} 上的理想情况",
    ),
    "roofline.time": ("Least step time", "每步最短用时"),
    "roofline.tokens": ("At most", "最高吞吐量"),
    "roofline.mfu": ("Highest MFU", "最高 MFU"),
    "roofline.mfu_value": ("{percent} of {peak} ({source})", "{peak} 的 {percent}（{source}）"),
    "roofline.bound": ("Bound by compute", "受算力限制"),
    "roofline.bound_value": (
        "{percent} of the time; the rest by memory",
        "{percent} 的时间；其余时间受内存限制",
    ),
    "roofline.batch": ("Matmuls compute-bound from batch", "矩阵乘法受算力限制的最小批量"),
    "roofline.no_batch": ("n/a: at no batch", "无：任何批量都不是"),
    "roofline.bandwidth": ("Bandwidth", "带宽"),
    "roofline.bandwidth_value": ("{rate} ({source})", "{rate}（{source}）"),
    "roofline.operators": ("Operators, the longest first", "各算子，用时最长的在前"),
    # devices
    "devices.peaks": ("Dense peaks", "稠密峰值"),
    "devices.memory": ("Memory", "内存"),
    "devices.bandwidth": ("Bandwidth", "带宽"),
    "devices.measured": ("  measured here since {since}", "  本机实测（自 {since}）"),
    "devices.default": (
        "* is the default denominator of MFU; sparse rates are never one.",
        "* 为 MFU 的默认分母；稀疏算力从不作分母。",
    ),
    # mfu
    "mfu.title": ("{model} at {tokens} tokens/s on {n} x {device}", "{model}：{n} x {device}，{tokens} 词元/秒"),
    "mfu.title_one": ("{model} at {tokens} tokens/s on {device}", "{model}：{device}，{tokens} 词元/秒"),
    "mfu.no_device": ("a device that was not named", "未指明的设备"),
    "mfu.per_token": ("FLOPs per token", "每词元浮点运算量"),
    "mfu.of": ("of {peak}", "分母为 {peak}"),
    "mfu.share_of": ("{share} of {peak}", "{share}，分母为 {peak}"),
    "mfu.beside": ("{name} ({convention})", "{name}（{convention}）"),
    "mfu.rate": ("Model FLOP/s", "模型算力"),
    "mfu.hardware_rate": ("Hardware FLOP/s", "硬件算力"),
    "mfu.rate_value": ("{rate} a device", "每设备 {rate}"),
    "mfu.rate_stated": (
        "{rate} a device: what this source calls TFLOPs",
        "每设备 {rate}：即该来源所说的 TFLOPs",
    ),
    "mfu.run": ("Run", "运行"),
    "mfu.seq_len": ("{n} tokens a sequence", "每序列 {n} 词元"),
    "mfu.recompute": ("recompute {what}", "重计算：{what}"),
    "mfu.share": ("{fraction} ({percent})", "{fraction}（{percent}）"),
    "mfu.same": (
        "{fraction} ({percent}), the same: no recomputation is counted",
        "{fraction}（{percent}），与 MFU 相同：没有计入重计算",
    ),
    "mfu.spread": ("from {low} to {high} the count grows {ratio}-fold", "{high} 的统计结果是 {low} 的 {ratio} 倍"),
    # compare
    "compare.title": ("{model}: {what}", "{model}：{what}"),
    "compare.same": ("within noise", "在噪声之内"),
    "compare.yes": ("beyond noise", "超出噪声"),
    "compare.exact": ("changed", "有变化"),
    "compare.equal": ("equal", "相同"),
    "compare.unknown": ("unknown", "未知"),
}
