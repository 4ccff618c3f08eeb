"""Sentences of a record, continued: warnings, what a closed form assumes, comparisons, what `doctor` finds."""

from __future__ import annotations

from typing import Final

_WARNINGS: Final[tuple[tuple[str, str], ...]] = (
    (
        "{ratio} {share} of {rate} ({convention}) is above 100 %: usual causes: {causes}",
        "{ratio} 为 {rate} 的 {share}（{convention}），超过 100 %，常见原因：{causes}",
    ),
    (
        "{ratio} {share} of {rate} ({convention}) is above 100 %: the notebook's table holds rates of units that do no"
        " matmuls: use the datasheet's",
        "{ratio} 为 {rate} 的 {share}（{convention}），超过 100 %："
        "笔记本的表里是不做矩阵乘法的单元的速率：请用数据手册的",
    ),
    (
        "another device, dtype or number of devices than given, a clock above the nominal one (GeForce cards reach 108"
        " to 121 %), or a convention that counts work which is not done",
        "设备、数据类型或设备数与给定的不同；频率高于标称（GeForce 卡可达 108 至 121 %）；或统计约定计入了没有做的工作",
    ),
    (
        "the peak was measured on a busy or throttled device; measure it again",
        "峰值是在繁忙或被降频的设备上测的；请重新测量",
    ),
    (
        "a peak of another dtype or device, or one for less than was running",
        "峰值属于另一种数据类型或设备，或少于实际运行的设备",
    ),
    (
        "{convention} counts all {n_keys} keys in the {n_layers} layers that see only {n_window}:"
        " matmul-window-exact counts what the window leaves",
        "{convention} 在只能看到 {n_window} 个键的 {n_layers} 层里统计了全部 {n_keys} 个键："
        "matmul-window-exact 只计窗口之内",
    ),
    (
        "{convention} takes the table of a tied head away, and leaves out the head's work with it",
        "{convention} 扣掉了与输出头共享的表，因而漏掉了输出头的计算量",
    ),
    ("{convention} counts the active parameters of the experts", "{convention} 统计专家的激活参数"),
    (
        "{convention} counts two of the three matrices of the gated FFN",
        "{convention} 只统计门控前馈网络三个矩阵中的两个",
    ),
    (
        "{convention} takes recompute {recompute} for granted: say --recompute none where there was none",
        "{convention} 默认重计算为“{recompute}”：没有重计算时请写 --recompute none",
    ),
    (
        "{convention} does not count the scores that a flash kernel computes again",
        "{convention} 不计 flash 内核重算的得分",
    ),
    (
        "{convention} does not say what recompute {recompute} costs",
        "{convention} 没有说明重计算“{recompute}”的代价",
    ),
    (
        "the whole model is divided by the {dtype} peak, attention and head too, which mostly run in bf16:"
        " --attention-dtype bf16 --head-dtype bf16 weighs the peaks",
        "整个模型都除以 {dtype} 峰值，包括通常以 bf16 运行的注意力和输出头："
        "--attention-dtype bf16 --head-dtype bf16 会对峰值加权",
    ),
)

_ASSUMED: Final[tuple[tuple[str, str], ...]] = (
    (
        "each operator takes the longer of FLOPs / peak and bytes / bandwidth, one after the other",
        "每个算子的用时取 FLOPs / 峰值与字节 / 带宽中较长的一个，逐个相加",
    ),
    (
        "bytes are compulsory: each operand read once, each result written once; fused elementwise work",
        "字节数为必需的访问：每个操作数读一次，每个结果写一次；逐元素运算已融合",
    ),
    (
        "attention is one kernel that skips the scores above the diagonal, which the MFU's convention counts:"
        " long sequences may show more than 100 %",
        "注意力是一个内核，跳过对角线以上的得分，而 MFU 的统计约定计入它们：长序列可能超过 100 %",
    ),
    (
        "bytes are those of every tensor read and written; a fused kernel's scores are counted in full",
        "字节数为每个读写张量的大小；融合内核的得分按全部计",
    ),
    (
        "activations of an operator that fit in {size} are found in the cache",
        "不超过 {size} 的算子激活视为在缓存中",
    ),
    ("attention math: all scores are kept", "注意力 math：保留全部得分"),
    ("attention flash: no scores are kept", "注意力 flash：不保留得分"),
    (
        "attention written out: scores, mask and softmax are tensors",
        "注意力逐步写出：得分、掩码和 softmax 都是张量",
    ),
    ("operators as torch runs them on {word}", "算子按 torch 在 {word} 上的运行方式"),
    (
        "logits are released before the backward pass where the loss does not need them",
        "损失不再需要 logits 时，在反向之前释放",
    ),
    (
        "AdamW with two moments in the dtype of the weights, one parameter after the other (foreach=False)",
        "AdamW，两个动量与权重同类型，逐个参数更新（foreach=False）",
    ),
    (
        "AdamW with two moments in the dtype of the weights, all parameters at once (foreach=True)",
        "AdamW，两个动量与权重同类型，所有参数一起更新（foreach=True）",
    ),
    (
        "AdamW with two moments in the dtype of the weights, in one kernel (fused=True)",
        "AdamW，两个动量与权重同类型，在一个内核中更新（fused=True）",
    ),
    (
        "AdamW with two moments of 8 bits (bitsandbytes: blocks of 256, fp32 below 4096 elements)",
        "AdamW，两个 8 位动量（bitsandbytes：每块 256 个，不足 4096 个元素的用 fp32）",
    ),
    (
        "only LoRA adapters of rank {n_rank} beside every linear layer of the blocks train",
        "只训练各层每个线性层旁秩为 {n_rank} 的 LoRA 适配器",
    ),
    ("only {names} is trained", "只训练 {names}"),
    ("each layer is checkpointed (use_reentrant=False)", "每一层都做重计算（use_reentrant=False）"),
    (
        "buffers inside matmul kernels, which no run without data sees, are left out: up to 1.1 MiB a thread on a CPU"
        " with bf16 instructions",
        "矩阵乘法内核内部的缓冲区（无数据运行看不到）未计入：在有 bf16 指令的 CPU 上每线程至多 1.1 MiB",
    ),
    ("weights in {dtype}, everything else in bf16", "权重用 {dtype}，其余用 bf16"),
    (
        "every expert gets the same number of tokens; more than 32 are written out in 32 bundles",
        "每个专家分到同样多的词元；超过 32 个专家时合并为 32 组",
    ),
    (
        "the driver's context and loaded kernels are not in it (0.5 to 0.9 GiB on an A100; measured by `fit`)",
        "不含驱动上下文和已加载的内核（A100 上为 0.5 至 0.9 GiB；`fit` 会实测）",
    ),
    ("the memory of {name} is not known: give --limit", "{name} 的内存大小未知：请用 --limit 给出"),
    (
        "{n_steps} steps of the reference network traced on tensors without data, operators as a CPU runs them",
        "在没有数据的张量上追踪参考网络的 {n_steps} 步，算子按 CPU 的运行方式",
    ),
    (
        "gradients that meet are added into a new tensor, as a dispatch mode sees them (a real run adds in place)",
        "相遇的梯度相加到新的张量中（实际运行时就地相加）",
    ),
)

_FOUND: Final[tuple[tuple[str, str], ...]] = (
    # reconcile
    ("not in the closed form: {names}", "闭式公式中没有：{names}"),
    # compare
    ("one measurement on a side: its noise is not known", "有一侧只有一次测量：噪声未知"),
    ("fewer than {n_least} samples on a side: their noise is not known", "有一侧少于 {n_least} 个样本：噪声未知"),
    ("{name} differs: {before} before, {after} after", "{name} 不同：之前为 {before}，之后为 {after}"),
    ("a sample counts as one token in what is said of tokens", "凡提到词元之处，一个样本计为一个词元"),
    (
        "not counted, and it looks like a matmul: {op} ({n} calls): FLOP/s and MFU are too low",
        "未统计，但看起来是矩阵乘法：{op}（{n} 次调用）：算力和 MFU 偏低",
    ),
    (
        "not counted, and it looks like a matmul: {op} ({n} calls): FLOPs are too low",
        "未统计，但看起来是矩阵乘法：{op}（{n} 次调用）：FLOPs 偏低",
    ),
    (
        "backward starts from the sum of the output: for your own loss give the model's output a `.loss`",
        "反向从输出之和开始：要用自己的损失，请让模型的输出带有 `.loss`",
    ),
    (
        "batch {n_next} ended as {word} where batch {n_batch} took {share} of the limit: it is not memory that"
        " stops it",
        "批量 {n_batch} 只用了上限的 {share}，批量 {n_next} 却以 {word} 结束：原因不是内存",
    ),
    (
        "making the module, before its weights are converted, takes more memory than its steps do",
        "在转换权重之前，构建模块所占的内存比运行步骤更多",
    ),
    (
        "{names}: what their kernels allocate inside is not known: the predicted memory may be too low by that",
        "{names}：内核内部分配多少内存未知：预测的内存可能因此偏低",
    ),
    (
        "{names}: they run another way on tensors without data: the predicted memory may be too high",
        "{names}：在不带数据的张量上以另一种方式运行：预测的内存可能偏高",
    ),
    (
        "{names}: kernels that allocate memory inside, which memory events do not show: the peak is too low by that",
        "{names}：内核在内部分配内存，内存事件看不到：峰值因此偏低",
    ),
    (
        "what kernels allocate inside is no line in the batch, and is not in the predicted memory",
        "内核内部分配的内存与批量不成线性关系，未计入预测的内存",
    ),
    (
        "what kernels allocate inside is measured: each distinct call run once, alone, on this machine",
        "内核内部分配的内存为实测：每种调用在本机单独运行一次",
    ),
    ("not known of your own code, which is traced at this batch", "自己的代码未知：只按这一批量追踪"),
    (
        "{share} of the FLOPs are {dtype} and stand at the peak of {other}",
        "{share} 的 FLOPs 是 {dtype}，按 {other} 的峰值计",
    ),
    ("operators are those that a CPU runs", "算子是 CPU 上运行的那些"),
    ("not counted, so that the least time is too low: {names}", "未统计，最短时间因此偏低：{names}"),
    ("no matmul was counted in the step", "这一步里没有统计到矩阵乘法"),
    (
        "{result}: batch x seq is {before} before and {after} after",
        "{result}：批量 x 序列之前为 {before}，之后为 {after}",
    ),
    (
        "{result}: {name} is of a peak of {before} before and {after} after",
        "{result}：{name} 所对照的峰值之前为 {before}，之后为 {after}",
    ),
    ("{result}: {key} is {before} before and {after} after", "{result}：{key} 之前为 {before}，之后为 {after}"),
    ("{key} is {before} before and {after} after", "{key} 之前为 {before}，之后为 {after}"),
    ("{result}, before: {note}", "{result}，之前：{note}"),
    ("{result}, after: {note}", "{result}，之后：{note}"),
    ("{result} is only in the first record", "{result} 只在第一份记录里"),
    ("{result} is only in the second record", "{result} 只在第二份记录里"),
    ("--fail-if {condition} is not met only for the noise: {text}", "--fail-if {condition} 只因噪声而未满足：{text}"),
    # doctor
    (
        "not installed: what runs or traces a model is n/a (fit, bench, peak, report, --trace)",
        "未安装：运行或追踪模型的功能不可用（fit、bench、peak、report、--trace）",
    ),
    ("not installed: clocks, power limit and throttling are n/a", "未安装：无法得知频率、功耗上限和降频"),
    ("not installed: {reason} is n/a", "未安装：{reason}不可用"),
    ("not installed, but no NVIDIA device to ask", "未安装，也没有可查询的 NVIDIA 设备"),
    ("installed, but no NVIDIA device to ask", "已安装，但没有可查询的 NVIDIA 设备"),
    ("clocks, power limit and throttling of NVIDIA devices", "NVIDIA 设备的频率、功耗上限和降频"),
    ("none: torch is not installed", "无：没有安装 torch"),
    ("none: torch {word} is built for CPUs only", "无：torch {word} 是仅支持 CPU 的版本"),
    ("none: torch {word} finds none; is the driver installed?", "无：torch {word} 没有找到加速器；驱动安装了吗？"),
    ("work runs on the CPU", "工作在 CPU 上运行"),
    (
        "run `flopwatch peak` (bench and report measure it in 6 s when needed)",
        "请运行 `flopwatch peak`（bench 和 report 需要时会用 6 秒测量）",
    ),
    ("nothing measured yet", "尚未测量"),
    ("what was measured no longer holds: {reason}", "以前的测量已不适用：{reason}"),
    (
        "none on PATH: only the tests of the HTML page need one",
        "PATH 中没有：只有网页的测试需要它",
    ),
    ("any browser shows the page", "任何浏览器都能显示网页"),
    ("none ({path} would be read)", "无（会读取 {path}）"),
    ("no flopwatch.toml or pyproject.toml here", "这里没有 flopwatch.toml 或 pyproject.toml"),
    ("{names} in this folder", "此文件夹中有 {names}"),
    ("{path}: {n_devices} devices", "{path}：{n_devices} 个设备"),
    ("{path}, {n_runs} runs", "{path}，{n_runs} 次运行"),
    ("{name} has no memory statistics", "{name} 没有内存统计"),
    ("a tensor of {n_asked} bytes is counted as {n_counted}", "{n_asked} 字节的张量被计为 {n_counted}"),
    ("predicted {predicted}, measured {measured}: {error}", "预测 {predicted}，实测 {measured}：{error}"),
    (
        "{name}, {n_usable} of {n_all} cores usable, {free} of {total} free ({reason}), {rest}",
        "{name}，{n_all} 个核心中 {n_usable} 个可用，{total} 中 {free} 空闲（{reason}），{rest}",
    ),
    (
        "{rate} ({date}, a lower bound: the machine was busy)",
        "{rate}（{date}，下界：当时机器繁忙）",
    ),
    (
        "torch lets cuDNN run fp32 convolutions and recurrent layers in tf32, above the fp32 peak:"
        " torch.backends.cudnn.allow_tf32 = False in the factory keeps them in fp32",
        "torch 允许 cuDNN 以 tf32 运行 fp32 的卷积和循环层，速度可超过 fp32 峰值："
        "在工厂函数中设 torch.backends.cudnn.allow_tf32 = False 可使其保持 fp32",
    ),
    # what records of earlier versions say
    (
        "the machine was busy before the timing began (load {n_load} a core): times may be too long",
        "计时开始前机器繁忙（每核心负载 {n_load}）：所测时间可能偏长",
    ),
    ("AdamW keeps two fp32 states", "AdamW 保存两份 fp32 状态"),
    ("activations as the fused reference keeps them", "激活按融合版参考网络的方式保留"),
    ("{word}: a training step in {dtype} needs {size}", "{word}：{dtype} 训练一步需要 {size}"),
    # a report's warning: the model and the phase before what was noted of its benchmark
    ("{word} {phase}: {note}", "{word} {phase}：{note}"),
)

REMARKS: Final[tuple[tuple[str, str], ...]] = (*_WARNINGS, *_ASSUMED, *_FOUND)
"""Pairs of English and Chinese; the longer of two that could match stands first."""
