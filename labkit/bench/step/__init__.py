"""`labkit bench step`: compare a whole fine-tuning step of stock TRL with labkit's default.

spec                    what both are asked for
stock_arm, labkit_arm   what their processes run
compare                 the runs, their ratios, their table
stages                  what each trick takes off
profile                 where the time goes
"""
