"""The value objects that flow from stage to stage: TokenMap, Block and TokenLayout. Pure torch.

Nothing here makes the host wait for a GPU but what says so: lengths are known on the host, and what is checked on a GPU
is checked there.
"""

from prunevid_qwen.tokens.layout import Block as Block
from prunevid_qwen.tokens.layout import TokenLayout as TokenLayout
from prunevid_qwen.tokens.token_map import Mix as Mix
from prunevid_qwen.tokens.token_map import TokenMap as TokenMap
