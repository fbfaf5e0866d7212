"""What has no meaning as a spiking network, and what to do instead."""

from __future__ import annotations

from neurocuda.convert.values import Call
from neurocuda.errors import UnsupportedModuleError

_RELU = "an activation that a firing rate can follow (nn.ReLU, nn.ReLU6, clamp(0, c)): train the model with one"
_NORM = "normalisation by running statistics (nn.BatchNorm1d, nn.BatchNorm2d): statistics of a sample are not linear"
_GATE = "sums of signals, as a product of two is no sum of spikes: leave the gate out, or add in place of multiplying"
_LEVEL = "class scores as they are: remove it, and apply it to what the converted network returns"
_ATTENTION = "layers that a spiking network has (convolutions, linear layers, pools): attention multiplies signals"
_RECURRENT = "a network without gates: a recurrent one is written with neurons of neurocuda.nn"
_PLAIN = "convolutions and pools over one or two axes of space, which is all that NIR has; nothing enlarges an image"
_WHOLE = "signals that are taken whole, over all steps: a convolution or a linear layer can select from them"

_INSTEAD = {
    _RELU: (
        "GELU SiLU Mish Sigmoid Tanh ELU SELU CELU GLU LeakyReLU PReLU RReLU Softplus Softsign Hardswish "
        "Hardsigmoid LogSigmoid Hardshrink Softshrink Tanhshrink gelu silu silu_ mish sigmoid sigmoid_ tanh tanh_ "
        "elu elu_ selu celu glu leaky_relu leaky_relu_ prelu rrelu softplus softsign hardswish hardsigmoid "
        "logsigmoid exp log sqrt rsqrt abs sin cos pow square erf"
    ),
    _NORM: (
        "LayerNorm GroupNorm InstanceNorm1d InstanceNorm2d LocalResponseNorm RMSNorm layer_norm group_norm "
        "instance_norm local_response_norm rms_norm normalize norm std var"
    ),
    _GATE: ("mul div matmul bmm mm einsum Bilinear bilinear"),
    _LEVEL: ("Softmax LogSoftmax Softmax2d Softmin softmax log_softmax softmin argmax"),
    _ATTENTION: (
        "MultiheadAttention Transformer TransformerEncoder TransformerDecoder TransformerEncoderLayer "
        "TransformerDecoderLayer scaled_dot_product_attention multi_head_attention_forward"
    ),
    _RECURRENT: ("LSTM GRU RNN LSTMCell GRUCell RNNCell lstm gru"),
    _PLAIN: (
        "ConvTranspose1d ConvTranspose2d ConvTranspose3d conv_transpose1d conv_transpose2d Conv3d conv3d AvgPool3d "
        "MaxPool3d BatchNorm3d Upsample UpsamplingBilinear2d UpsamplingNearest2d interpolate PixelShuffle "
        "pixel_shuffle"
    ),
    _WHOLE: (
        "getitem chunk split unbind select narrow index_select gather roll flip unfold Unfold Fold tensor_split "
        "iter stack"
    ),
}
_TEXTS = {name: text for text, names in _INSTEAD.items() for name in names.split()}
_ANY = "what a spiking network can compute (convolutions, linear layers, normalisation, pools, sums, rectifiers)"


def refusal(call: Call, name: str) -> UnsupportedModuleError:
    """The error for a module or a function of this name."""
    text = _TEXTS.get(name, _ANY)
    if text is _LEVEL and not call.last:
        text = _ATTENTION if "max" in name.lower() else text
    return call.refuse(text)
