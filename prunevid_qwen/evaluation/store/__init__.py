"""One run folder for all that runs: the record of what was asked, and lines that outlive a kill."""

from prunevid_qwen.evaluation.store.identity import Progress as Progress
from prunevid_qwen.evaluation.store.identity import code_digest as code_digest
from prunevid_qwen.evaluation.store.identity import config_options as config_options
from prunevid_qwen.evaluation.store.identity import digest as digest
from prunevid_qwen.evaluation.store.identity import digest_of as digest_of
from prunevid_qwen.evaluation.store.identity import model_options as model_options
from prunevid_qwen.evaluation.store.identity import plugin_options as plugin_options
from prunevid_qwen.evaluation.store.identity import reader_options as reader_options
from prunevid_qwen.evaluation.store.identity import surroundings as surroundings
from prunevid_qwen.evaluation.store.run_folder import RECORD as RECORD
from prunevid_qwen.evaluation.store.run_folder import Lines as Lines
from prunevid_qwen.evaluation.store.run_folder import RunFolder as RunFolder
from prunevid_qwen.evaluation.store.run_folder import keep_lines as keep_lines
from prunevid_qwen.evaluation.store.run_folder import pack as pack
from prunevid_qwen.evaluation.store.run_folder import read_lines as read_lines
from prunevid_qwen.evaluation.store.run_folder import replace as replace
from prunevid_qwen.evaluation.store.run_folder import run_hash as run_hash
from prunevid_qwen.evaluation.store.run_folder import unpack as unpack
