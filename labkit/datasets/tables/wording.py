"""How the embedded set asks: the wordings of every kind of question on a table.

Slots: {c} a cell with its period ("revenue from hardware in 2019"), {x} and {z} line items, {bare}
{x} without its article, {a} {b} two periods from old to new, {l} a list of periods, {when} a period
with its preposition, {t} the total, {g} {gs} what a line item is ("segment", "segments"), {n} a
threshold, {co} the company. Alternatives are separated by ' / '.
"""

CELL = ("What was {c}? / What is {c}? / How much was {c}? / State {c}. / Give {c}. / How high was "
        "{c}? / What did {co} report as {c}? / What does the table show as {c}? / What was {c} "
        "according to the table? / What does {c} amount to? / What was {co}'s figure for {c}?")
CELL_RATE = ("What was {c}? / What is {c}? / State {c}. / Give {c}. / How high was {c}? / What did "
             "{co} report as {c}? / What does the table show as {c}?")
CHANGE_CELL = ("What change does the table show for {x}? / Which change is reported for {x}? / "
               "What is in the change column for {x}? / State the change shown for {x}. / How "
               "large is the reported change in {x}? / Read off the change in {x}.")
CHANGE = ("What was the change in {x} from {a} to {b}? / How much did {x} change between {a} and "
          "{b}? / What is the difference in {x} between {b} and {a}? / By what amount did {x} "
          "change from {a} to {b}? / Calculate the change in {x} between {a} and {b}. / "
          "What was the increase or decrease in {x} from {a} to {b}? / What was the change in {x} "
          "between {a} and {b}?")
PERCENT = ("What was the percentage change in {x} from {a} to {b}? / By what percentage did {x} "
           "change between {a} and {b}? / What is the percentage change of {x} in {b} compared to "
           "{a}? / How did {x} change in percent from {a} to {b}? / Calculate the percentage "
           "change in {x} between {a} and {b}. / What was the growth rate of {x} from {a} to {b}, "
           "in percent? / What is the percentage change in {x} between {a} and {b}?")
AVERAGE = ("What was the average of {x} for {l}? / What is the average {bare} over {l}? / "
           "Calculate the mean of {x} for {l}. / How much was {x} on average in {l}? / "
           "What was {x} on average over {l}? / What is the mean {bare} for {l}? / What was the "
           "average {bare} in {l}?")
TOTAL = ("What was the sum of {x} and {z} {when}? / How much were {x} and {z} together {when}? / "
         "What is the combined value of {x} and {z} {when}? / Add up {x} and {z} {when}. / "
         "What do {x} and {z} add up to {when}? / What was the total of {x} and {z} {when}?")
TOTAL_TIME = ("What was the sum of {x} for {l}? / How much was {x} in {l} together? / What is the "
              "total of {x} over {l}? / Add up {x} for {l}. / What does {x} add up to over {l}? / "
              "What was {x} in {l} combined?")
BETWEEN = ("What was the difference between {x} and {z} {when}? / By how much did {x} exceed {z} "
           "{when}? / How much larger was {x} than {z} {when}? / How much higher was {x} than {z} "
           "{when}? / What is {x} less {z} {when}? / How much more was {x} than {z} {when}?")
SHARE = ("What percentage of {t} was {x} {when}? / What share of {t} was {x} {when}, in percent? / "
         "What percent of {t} did {x} make up {when}? / What was {x} as a percentage of {t} "
         "{when}? / Express {x} {when} as a percentage of {t}. / What proportion of {t} was {x} "
         "{when}, as a percentage?")
SHARE_FACET = ("What percentage of {t} was {x}? / What share of {t} does {x} make up, in percent? "
               "/ What is {x} as a percentage of {t}? / Express {x} as a percentage of {t}. / "
               "What percent of {t} is {x}? / Calculate {x} in percent of {t}.")
RATIO = ("What was the ratio of {x} to {z} {when}? / Calculate the ratio of {x} to {z} {when}. / "
         "What is {x} divided by {z} {when}? / How many times {z} was {x} {when}? / "
         "What is the ratio between {x} and {z} {when}? / What multiple of {z} was {x} {when}?")
AVERAGES = ("What is the difference between the average of {x} and the average of {z} for {l}? / "
            "By how much does the average of {x} for {l} exceed that of {z}? / Over {l}, how much "
            "higher was average {bare} than average {bare2}? / How much larger was {x} than {z} on "
            "average in {l}? / What is average {bare} less average {bare2} for {l}? / Calculate "
            "the average of {x} minus the average of {z} over {l}.")
YEAR = ("In which {unit} was {x} {larger}? / Which {unit} had the {larger} {bare}? / When was {x} "
        "{larger}? / In what {unit} did {co} report the {larger} {bare}? / Which {unit} shows the "
        "{larger} {bare}? / For which {unit} was {x} {larger}?")
WHICH = ("Which {g} had the {largest} figure {when}? / What was the {largest} {g} {when}? / "
         "Which {g} was {largest} {when}? / Which {g} shows the {largest} amount {when}? / "
         "Name the {g} with the {largest} figure {when}. / {when}, which {g} had the {largest} "
         "figure?")
WHICH_FACET = ("Which {g} has the {largest} {facet}? / For which {g} is the {facet} {largest}? / "
               "Name the {g} with the {largest} {facet}. / What is the {g} with the {largest} "
               "{facet}? / Which {g} shows the {largest} {facet}? / The {facet} of which {g} is "
               "{largest}?")
TWO_TIMES = ("What was {x} in {a} and {b}, respectively? / How much was {x} in {a} and in {b}? / "
             "What were the values of {x} in {a} and {b}? / State {x} for {a} and {b}. / "
             "Give {x} in {a} and {b}, in this order. / What are the respective values of {x} in "
             "{a} and {b}?")
TWO_LINES = ("What were {x} and {z} {when}, respectively? / How much were {x} and {z} {when}? / "
             "State {x} and {z} {when}. / Give {x} and {z} {when}, in this order. / What are the "
             "respective values of {x} and {z} {when}? / What does the table show as {x} and {z} "
             "{when}?")
LINES = ("Which {gs} are shown in the table? / What {gs} does the table list? / Name the {gs} in "
         "the table. / List the {gs}. / Into which {gs} is the table divided? / What are the {gs} "
         "reported?")
ABOVE = ("Which {gs} were {above} {n} {when}? / Name the {gs} {above} {n} {when}. / What {gs} had "
         "figures {above} {n} {when}? / {when}, which {gs} were {above} {n}? / List the {gs} with "
         "amounts {above} {n} {when}. / Which {gs} had an amount {above} {n} {when}?")
YEARS = ("In which {units} was {x} {above} {n}? / Which {units} had {x} {above} {n}? / Name the "
         "{units} with {x} {above} {n}. / In what {units} did {co} report {x} {above} {n}? / "
         "List the {units} in which {x} was {above} {n}. / When was {x} {above} {n}?")
PERIODS = ("Which {units} does the table cover? / For which {units} are figures given? / What "
           "{units} are shown in the table? / Name the {units} in the table. / Over which {units} "
           "does the table report? / List the {units} covered.")
COUNT_LINES = ("How many {gs} were {above} {n} {when}? / For how many {gs} was the amount {above} "
               "{n} {when}? / {when}, how many {gs} had an amount {above} {n}? / How many of the "
               "{gs} had figures {above} {n} {when}? / What is the number of {gs} {above} {n} "
               "{when}? / Count the {gs} {above} {n} {when}.")
COUNT_YEARS = ("In how many {units} was {x} {above} {n}? / For how many {units} was {x} {above} "
               "{n}? / How many {units} had {x} {above} {n}? / Count the {units} with {x} "
               "{above} {n}. / How often was {x} {above} {n}? / In how many of the {units} did "
               "{x} come out {above} {n}?")
COUNT_ALL = ("How many {gs} are shown in the table? / How many {gs} does the table list? / What is "
             "the number of {gs} in the table? / Count the {gs} in the table. / Into how many {gs} "
             "is the table divided? / How many {gs} are reported?")
