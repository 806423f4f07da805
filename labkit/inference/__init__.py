"""Ask a model, score it, compare two, and change the form in which it is kept.

generate        prompts in, answers out
replies         an answer read back, and its score
show            answers side by side
evaluate        a score with its interval
compare         two models on the same questions
parity          are these the same model
export          merge and quantise
cost            time and memory of a token
lm_eval_tasks   benchmarks by lm-eval
"""
