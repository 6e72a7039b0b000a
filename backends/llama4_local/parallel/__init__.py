"""Several processes that run one network: tensor parallel over the ranks of one host."""
