"""Text follow-ups: a conversation goes on from the cache of its last answer, and what that holds is not read again.

A cache knows keys and values alone. So that a conversation can be compared with it, `remember` writes beside them what
was read and answered, and `next_turn` refuses whatever does not begin so. The generated token ids are taken as they
are: an answer that is tokenized anew may have others.
"""

from prunevid_qwen.answers.follow_up.answered import follow_up as follow_up
from prunevid_qwen.answers.follow_up.held import remember as remember
from prunevid_qwen.answers.follow_up.shown import shown_in as shown_in
from prunevid_qwen.answers.follow_up.turn import cache_given as cache_given
from prunevid_qwen.answers.follow_up.turn import check_starts_anew as check_starts_anew
from prunevid_qwen.answers.follow_up.turn import next_turn as next_turn
from prunevid_qwen.answers.follow_up.turn import with_cache_named as with_cache_named
