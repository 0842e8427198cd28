"""What this machine has of what pruning needs, and a fix for each fault. Importing it loads no torch."""

from prunevid_qwen.doctor.examination import Examination as Examination
from prunevid_qwen.doctor.examination import examine as examine
from prunevid_qwen.doctor.finding import Finding as Finding
