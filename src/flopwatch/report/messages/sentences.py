"""Sentences that a record holds, each beside its Chinese: conventions, peaks and their sources, measurements.

The first that matches a whole text is taken; `remarks.py` goes on. A test finds each of them in the package.
"""

from __future__ import annotations

from typing import Final

_CONVENTIONS: Final[tuple[tuple[str, str], ...]] = (
    (
        "8 x layer weights: hardware FLOPs with full recomputation, no attention, no head",
        "8 x 层权重：含完全重计算的硬件 FLOPs，不计注意力和输出头",
    ),
    ("all parameters but the input embedding, attention in full", "除输入嵌入外的全部参数，完整注意力"),
    (
        "all parameters but the input embedding, windowed layers only within their window",
        "除输入嵌入外的全部参数，窗口层只计窗口之内",
    ),
    ("all parameters but the position table, attention in full", "除位置表外的全部参数，完整注意力"),
    ("all parameters, attention in full", "全部参数，完整注意力"),
    (
        "all parameters, attention in full; recomputation is the whole forward pass",
        "全部参数，完整注意力；重计算为整个前向",
    ),
    ("all parameters, half of the attention", "全部参数，注意力计一半"),
    ("every matmul but the router's, half of the attention", "除路由器外的每次矩阵乘法，注意力计一半"),
    ("every matmul, attention in full", "每次矩阵乘法，完整注意力"),
    ("every matmul, attention in full, three quarters of the head", "每次矩阵乘法，完整注意力，输出头计四分之三"),
    (
        "every matmul, attention in full; selective recomputation as printed",
        "每次矩阵乘法，完整注意力；选择性重计算照原文",
    ),
    ("every matmul, half of the attention and of the windows", "每次矩阵乘法，注意力和窗口都计一半"),
    ("every matmul, half of the attention", "每次矩阵乘法，注意力计一半"),
    (
        "every matmul, half of the attention, ideal time by dtype",
        "每次矩阵乘法，注意力计一半，理想时间按数据类型计算",
    ),
    ("every matmul, the scores on and below the diagonal", "每次矩阵乘法，只计对角线及以下的得分"),
    ("every matmul, the scores that the mask and the window leave", "每次矩阵乘法，只计掩码和窗口留下的得分"),
    ("every matmul, windowed layers only within their window", "每次矩阵乘法，窗口层只计窗口之内"),
    (
        "hardware FLOPs with full recomputation: layers four times forward, head three",
        "含完全重计算的硬件 FLOPs：各层为前向的四倍，输出头三倍",
    ),
    ("linear layers only", "只计线性层"),
    ("megatron, a gated FFN counted as two matrices", "同 megatron，门控前馈网络按两个矩阵计"),
    ("megatron, with the causal window in windowed layers", "同 megatron，窗口层计因果窗口"),
    ("six FLOPs a parameter and token", "每个参数、每个词元 6 FLOPs"),
    ("{formula}a sum over layers of {rest}", "{formula}a 对各层求和 {rest}"),
    ("6(N - position table) + 12LaT", "6(N - 位置表) + 12LaT"),
    ("6(W without gates + dV) + 6LaT", "6(W 不含门 + dV) + 6LaT"),
    ("6(W + dV) + 6LaT, exact causal window in windowed layers", "6(W + dV) + 6LaT，窗口层计精确的因果窗口"),
    (
        "6(W + dV) + 12LaT, hardware with selective recomputation + 12LaT",
        "6(W + dV) + 12LaT，含选择性重计算的硬件 + 12LaT",
    ),
    ("6W at the run's peak, 6dV + 6LaT at the bf16 peak", "6W 按运行的峰值，6dV + 6LaT 按 bf16 峰值"),
    ("{formula}, hardware {rest}", "{formula}，硬件 {rest}"),
)

_PEAKS: Final[tuple[tuple[str, str], ...]] = (
    (
        "a CPU's peak depends on its clock under load: measure it with `flopwatch peak`",
        "CPU 的峰值取决于它在负载下的频率：请用 `flopwatch peak` 实测",
    ),
    (
        "the peak of {name} depends on its clock under load: measure it with `flopwatch peak`",
        "{name} 的峰值取决于它在负载下的频率：请用 `flopwatch peak` 实测",
    ),
    ("a CPU's bandwidth depends on the memory modules beside it", "CPU 的带宽取决于所配的内存条"),
    (
        "no published {dtype} peak is known for {name} (--peak-tflops gives one)",
        "没有 {name} 的公开 {dtype} 峰值（可用 --peak-tflops 给出）",
    ),
    ("no published {dtype} peak is known", "没有公开的 {dtype} 峰值"),
    ("no datasheet of this device is known", "没有此设备的数据手册"),
    ("no bandwidth of {name} is published", "{name} 的带宽没有公开"),
    ("{name} has no {dtype} matmul peak (it has {known})", "{name} 没有 {dtype} 矩阵乘法峰值（它有 {known}）"),
    (
        "no published {dtype} peak of {name} was found: give --peak-tflops",
        "没有找到 {name} 的公开 {dtype} 峰值：请用 --peak-tflops 给出",
    ),
    (
        "no published {dtype} figure of {name} is a matmul's ceiling: give --peak-tflops",
        "{name} 公开的 {dtype} 数字都不是矩阵乘法的上限：请用 --peak-tflops 给出",
    ),
    ("no peak is known; give one with --peak-tflops", "没有已知的峰值；可用 --peak-tflops 给出"),
    (
        "no device is named: give --device, or the peak with --peak-tflops",
        "没有指明设备：请用 --device 指明，或用 --peak-tflops 给出峰值",
    ),
    ("the notebook has no peak of that name", "笔记本的表里没有这个名字的峰值"),
    (
        "the notebook's table has no {dtype} peak for {name}: give --peak-tflops",
        "笔记本的表里没有 {name} 的 {dtype} 峰值：请用 --peak-tflops 给出",
    ),
    (
        "--peak-tflops is not given for every dtype of the run: give each, like {example}",
        "--peak-tflops 没有覆盖这次运行的每种数据类型：请逐一给出，例如 {example}",
    ),
    ("{name} is shared by {names}; {reason}", "{name} 对应多个型号：{names}；{reason}"),
    (
        "{name} shows fewer SMs or less memory than a whole {card}; {reason}",
        "{name} 的 SM 或内存少于整块 {card}；{reason}",
    ),
    (
        "{name} is a laptop part or a power-limited one, whose peak is not the card's; {reason}",
        "{name} 是笔记本电脑型号或功耗受限的型号，峰值与整卡不同；{reason}",
    ),
    (
        "{name} is a virtual GPU, a share of a card, whose peak is not the card's; {reason}",
        "{name} 是虚拟 GPU，只是一块卡的一部分，峰值与整卡不同；{reason}",
    ),
    ("{name} is not in the catalogue; {reason}", "目录里没有 {name}；{reason}"),
    ("no device is called {name} ({reason})", "没有名为 {name} 的设备（{reason}）"),
    ("{name} can be {names} (name the variant)", "{name} 可以是 {names}（请指明具体型号）"),
    ("see `flopwatch devices`, or {reason}", "见 `flopwatch devices`，或{reason}"),
    (
        "the nearest names are {names}: see `flopwatch devices`",
        "最接近的名字是 {names}：见 `flopwatch devices`",
    ),
    (
        "give --peak-tflops, or measure with `flopwatch peak`",
        "请用 --peak-tflops 给出，或用 `flopwatch peak` 实测",
    ),
    ("{name} {dtype} dense, datasheet", "{name} {dtype} 稠密，数据手册"),
    ("{name} {dtype} dense, derived from SMs x clock", "{name} {dtype} 稠密，由 SM 数 x 频率推得"),
    ("{name} {dtype}, user's device file", "{name} {dtype}，用户的设备文件"),
    ("{name}, catalogue", "{name}，目录"),
    (
        "{dtype} matmul measured here on {date} while the machine was busy",
        "{date} 本机实测的 {dtype} 矩阵乘法，当时机器繁忙",
    ),
    ("{dtype} matmul measured here on {date}", "{date} 本机实测的 {dtype} 矩阵乘法"),
    ("{dtype} matmul {shape}, measured here", "{dtype} 矩阵乘法 {shape}，本机实测"),
    (
        "copy and triad measured here on {date} while the machine was busy",
        "{date} 本机实测的 copy 与 triad，当时机器繁忙",
    ),
    ("copy and triad measured here on {date}", "{date} 本机实测的 copy 与 triad"),
    ("copy and triad measured here, now", "刚刚在本机实测的 copy 与 triad"),
    ("{dtype}, given with --peak-tflops for {name}", "{dtype}，由 --peak-tflops 给定，用于 {name}"),
    ("{dtype}, given with --peak-tflops", "{dtype}，由 --peak-tflops 给定"),
    ("{source}, weighted by FLOPs", "{source}，按浮点运算量加权"),
    ("notebook table, {name} ({word})", "笔记本的表，{name}（{word}）"),
    ("{source}; bandwidth {more_source}", "{source}；带宽：{more_source}"),
)

_MEASURED: Final[tuple[tuple[str, str], ...]] = (
    # the limit of a search
    ("given ({allowed}) less a headroom of {kept}", "给定的 {allowed} 减去余量 {kept}"),
    ("free now ({free}) less a headroom of {kept}", "当前空闲 {free} 减去余量 {kept}"),
    ("memory of {name} ({size}) less {kept} for its context", "{name} 的内存 {size} 减去驱动上下文所需的 {kept}"),
    ("all that the device has", "设备的全部内存"),
    # why a search or a curve ended, what was left out
    ("it would take longer than its share of --budget {budget}", "所需时间会超过它在 --budget {budget} 中的份额"),
    (
        "it would take about {needs}; {left} of --budget {budget} are left",
        "约需 {needs}；--budget {budget} 只剩 {left}",
    ),
    (
        "a step would take about {needs}, more than what is left of --budget {budget}",
        "一步约需 {needs}，--budget {budget} 剩下的时间不够",
    ),
    ("not even batch 1 fits", "批量 1 也放不下"),
    ("batch {n_batch} ran out of memory", "批量 {n_batch} 内存不足"),
    ("batch {n_batch} did not run", "批量 {n_batch} 未能运行"),
    ("tokens/s falls at batch {n_batch}", "到批量 {n_batch} 时吞吐量下降"),
    ("tokens/s stays flat up to batch {n_batch}", "直到批量 {n_batch} 吞吐量不再上升"),
    ("batch {n_batch} is the largest that may be tried", "批量 {n_batch} 是允许尝试的最大批量"),
    # what makes a timing less sure
    (
        "warm-up was cut off while steps were still getting faster: the step may be faster than this",
        "预热被中断时各步仍在变快：实际可能比这更快",
    ),
    (
        "steps got {n_percent}% slower while they were timed (heat, or other work on the machine)",
        "计时期间各步变慢了 {n_percent}%（发热，或机器上有其他工作）",
    ),
    (
        "steps got {n_percent}% faster while they were timed (heat, or other work on the machine)",
        "计时期间各步变快了 {n_percent}%（发热，或机器上有其他工作）",
    ),
    (
        "samples differ by {n_percent}% of the median (p10 to p90): the machine is not quiet",
        "样本的离散程度（p10 至 p90）达中位数的 {n_percent}%：机器并不空闲",
    ),
    (
        "{n_far} of {n_all} samples lie far out; the median does not feel them",
        "{n_all} 个样本中有 {n_far} 个离群；中位数不受影响",
    ),
    (
        "other processes kept {n_busy} of {n_cores} cores busy while the step was timed on {n_threads} threads:"
        " it may be faster on a quiet machine",
        "用 {n_threads} 个线程计时期间，其他进程占用了 {n_cores} 个核心中的 {n_busy} 个：机器空闲时可能更快",
    ),
    (
        "peak memory is n/a: the step was timed, but running it again with every allocation counted did not fit",
        "峰值内存 n/a：该步已计时，但再运行一次并统计每次分配时内存不够",
    ),
    ("peak memory is n/a: torch counts no memory on {word}", "峰值内存 n/a：torch 不统计 {word} 上的内存"),
    (
        "the time was up after {n_samples} samples: raise --timeout for more",
        "得到 {n_samples} 个样本时时间已到：增大 --timeout 可得更多",
    ),
    (
        "the time of day moved by {n_wall} s for each second of the clock that timed the steps: one of the two is wrong"
        " (a clock being set, or a virtual machine's): time the step again",
        "计时所用的时钟每走一秒，系统时间走了 {n_wall} s："
        "两者必有一个不准（时钟正被校准，或是虚拟机的时钟）：请重新计时",
    ),
    (
        "{n_percent}% of the CPU time is the system's: each step gives memory back and takes {n_pages} pages anew"
        " (MALLOC_MMAP_MAX_=0 and MALLOC_TRIM_THRESHOLD_=68719476736 in the environment make glibc keep it)",
        "{n_percent}% 的 CPU 时间是系统的：每一步都归还内存，又重新取得 {n_pages} 个内存页"
        "（环境变量 MALLOC_MMAP_MAX_=0 和 MALLOC_TRIM_THRESHOLD_=68719476736 可使 glibc 保留内存）",
    ),
    (
        "{n_percent}% of the CPU time is the system's: each step gives memory back and takes {n_pages} pages anew",
        "{n_percent}% 的 CPU 时间是系统的：每一步都归还内存，又重新取得 {n_pages} 个内存页",
    ),
    (
        "not timed: one step was not done in {seconds}, {n_times} times what the base takes (--timeout gives it more)",
        "没有计时：一步在 {seconds} 内没有做完，已是基准的 {n_times} 倍（--timeout 可给它更多时间）",
    ),
    (
        "the base itself changed by {n_percent} % from its first run to its last: the machine is not quiet,"
        " and the intervals of the choices are as wide",
        "基准本身从第一次到最后一次变化了 {n_percent} %：机器并不空闲，各选择的区间也同样宽",
    ),
    (
        "batch {n_batch} was timed twice, {n_percent} % tokens/s the second time: the machine is not quiet,"
        " and points of the curve that were taken far apart cannot be compared",
        "批量 {n_batch} 计时两次，第二次的吞吐量变化 {n_percent} %：机器并不空闲，曲线上相隔较久的点不能相互比较",
    ),
    (
        "batch {n_batch} has {low} to {high} of the tokens/s of batch {n_first}: timed in turn, {n_rounds} rounds",
        "批量 {n_batch} 的吞吐量为批量 {n_first} 的 {low} 至 {high}：轮流计时 {n_rounds} 轮",
    ),
    ("batches {batches} could not be timed in turn: {reason}", "批量 {batches} 未能轮流计时：{reason}"),
    (
        "the parts together are {share} more than the step: the machine is not quiet, or the profiler slowed it down;"
        " take the split as rough",
        "各部分之和比整步多 {share}：机器并不空闲，或性能分析器拖慢了它；这一拆分只作粗略参考",
    ),
    (
        "the parts together are {share} less than the step: the machine is not quiet, or the profiler slowed it down;"
        " take the split as rough",
        "各部分之和比整步少 {share}：机器并不空闲，或性能分析器拖慢了它；这一拆分只作粗略参考",
    ),
    (
        "matmuls are {share} slower in the step than alone at the same shapes: memory, cache and other operators"
        " between them, or a machine that is not quiet",
        "矩阵乘法在整步中比同样形状单独运行慢 {share}：受内存、缓存和穿插其间的其他算子影响，或机器并不空闲",
    ),
    (
        "matmuls are {share} faster in the step than alone at the same shapes: memory, cache and other operators"
        " between them, or a machine that is not quiet",
        "矩阵乘法在整步中比同样形状单独运行快 {share}：受内存、缓存和穿插其间的其他算子影响，或机器并不空闲",
    ),
    # measured peaks
    ("the driver held the clock down: {why}", "驱动压低了频率：{why}"),
    (
        "the first {n_rounds} rounds were dropped: the device was still warming up",
        "舍弃了前 {n_rounds} 轮：设备仍在预热",
    ),
    ("other processes kept {n_cores} cores busy: a lower bound", "其他进程占用了 {n_cores} 个核心：这是下界"),
    ("samples differ by {n_percent} %: the best of them was taken", "样本相差 {n_percent} %：取其中最好的"),
    ("samples differ by {n_percent} %: the median of them was taken", "样本相差 {n_percent} %：取中位数"),
    (
        "the power limit is {n_limit} W where the card's own is {n_own} W",
        "功耗上限为 {n_limit} W，而此卡自身的上限为 {n_own} W",
    ),
    (
        "{dtype}: a lower bound, the machine was not quiet: measure again when it is idle",
        "{dtype}：这是下界，当时机器并不空闲：请在空闲时重新测量",
    ),
    (
        "{dtype}: a better measurement of this machine is kept as its denominator",
        "{dtype}：保留了本机更好的一次测量作为分母",
    ),
    ("{dtype}: {share} of the datasheet: it clocks higher", "{dtype}：达到数据手册的 {share}：实际频率更高"),
    ("{dtype}: n/a, {reason}", "{dtype}：未知，{reason}"),
    ("the predicted memory is that of the step without torch.compile", "预测内存是不用 torch.compile 时的"),
    ("the largest batch was searched without torch.compile", "最大批量是不用 torch.compile 搜索的"),
    # decoding
    (
        "which experts {n_tokens} tokens choose is not known: {n_read} of {n_experts} in each layer are taken to be"
        " read, {n_least} is the least: bytes and MBU may be lower",
        "{n_tokens} 个词元选中哪些专家并不知道：这里按每层 {n_experts} 个中读取 {n_read} 个计算，最少为 {n_least} 个："
        "字节数与 MBU 可能更低",
    ),
    (
        "a decoding step reads {size}, which the caches ({cache}) can hold: MBU then says nothing about memory",
        "一步解码读取 {size}，缓存（{cache}）就装得下：此时 MBU 不能说明内存",
    ),
    (
        "MBU {share} of {rate} is above 100 %: a cache held part of it, or the bandwidth was measured on a busy device;"
        " measure it again with `flopwatch peak`",
        "MBU 为 {rate} 的 {share}，超过 100 %：一部分来自缓存，"
        "或带宽是在繁忙的设备上测的；请用 `flopwatch peak` 重新测量",
    ),
    # what has no closed form
    ("no roofline of {what} is known in closed form", "{what} 的屋顶线模型没有闭式公式"),
    ("memory of n_mtp_layers={n} is not known in phase {phase}", "{phase}阶段 n_mtp_layers={n} 的内存未知"),
    (
        "a figure is no polynomial of second degree in the sequence length",
        "有一项不是序列长度的二次多项式",
    ),
)

SENTENCES: Final[tuple[tuple[str, str], ...]] = (*_CONVENTIONS, *_PEAKS, *_MEASURED)
"""Pairs of English and Chinese; the longer of two that could match stands first."""
