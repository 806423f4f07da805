"""Facts of the embedded set: sentences that stand beside a table, and what can be asked of them.

A fact is a sentence with slots and a few questions. An answer is written after `=>`:

    {date}                     a span: the slot's text, which therefore occurs in the sentence
    *items  *pct,pct2          a multi-span: every entry of the list slot, or several slots
    #items                     a count: how many entries the list slot has
    =({n}-{n2})/{n2} # percent   arithmetic on numbers of the sentence, with its scale
    @cell                      the table's cell of the line item `row`: needs table and sentence
    =@share                    the slot `amount` over that cell, in percent

Alternatives of a wording are separated by ` / `. A slot with a digit (`{firm2}`) draws a second,
different value. Slots in lower case that open a sentence or a question are capitalised.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Fact:
    """A sentence beside a table."""

    tags: str
    """Topics it fits: words also found in `Topic.tags`; 'any', 'up', 'down' fit by themselves."""
    sentences: tuple[str, ...]
    asks: tuple[str, ...]
    lists: str = ""
    """Bank the list slot {items} draws from, if the sentence has one."""


def _f(tags: str, sentence: str, *asks: str, lists: str = "") -> Fact:
    return Fact(tags=tags, sentences=tuple(sentence.split(" / ")), asks=asks, lists=lists)


FACTS: tuple[Fact, ...] = (
    # Movements of a line item, true of the table beside which they stand.
    _f("up", "{x} rose in {y} because of {why}. / The rise in {x} in {y} reflects {why}. / "
             "{x} increased in {y}, mainly owing to {why}. / Higher {bare} in {y} was driven by "
             "{why}. / In {y}, {x} grew as a result of {why}. / {x} was up in {y} thanks to {why}.",
       "Why did {x} increase in {y}? / What drove the rise in {x} in {y}? / What was the main "
       "reason for the higher {bare} in {y}? / What explains the increase in {x}? / Why was {x} "
       "higher in {y}? / What led to the growth of {x}? => {why}"),
    _f("down", "{x} fell in {y} because of {why}. / The decline in {x} in {y} reflects {why}. / "
               "{x} decreased in {y}, mainly owing to {why}. / Lower {bare} in {y} was due to "
               "{why}. / In {y}, {x} shrank as a result of {why}. / {x} was down in {y} after "
               "{why}.",
       "Why did {x} decrease in {y}? / What caused the fall in {x} in {y}? / What was the main "
       "reason for the lower {bare} in {y}? / What explains the decline in {x}? / Why was {x} "
       "lower in {y}? / What led to the decrease in {x}? => {why}"),
    # A line item described in the text: the question needs sentence and table.
    _f("segment", "{row} is run from {city} and has {n} employees. / The head office of {row} is "
                  "in {city}, where {n} people work. / {row} is managed from {city} by {n} staff.",
       "Where is {row} managed from? / From which city is {row} run? => {city}",
       "How many people work for {row} in {city}? / What is the number of staff of {row}? => {n}",
       "What was {of} run from {city} {when}? / How much was {of} managed from {city} {when}? / "
       "What figure is shown {when} for {of} based in {city}? => @cell"),
    _f("segment led", "{row} is led by {person}, who joined in {past}. / {person} has been head of "
                      "{row} since {past}.",
       "Who leads {row}? / Who is the head of {row}? / Who is in charge of {row}? => {person}",
       "Since when has {person} been in charge? / In which year did {person} start? => {past}",
       "What was {of} led by {person} {when}? / How much was {of} headed by {person} {when}? / "
       "What figure is shown {when} for {of} in the charge of {person}? => @cell"),
    _f("part", "Of {cell}, {part} came from {firm}. / {firm} accounted for {part} of {cell}. / "
               "{cell} included {part} from {firm}.",
       "What share of {cell} came from {firm}, in percent? / What percentage of {cell} did {firm} "
       "account for? / What percent of {cell} related to {firm}? => =@share",
       "How much of {cell} came from {firm}? / What amount did {firm} contribute to {cell}? => "
       "{part}"),
    # Events that may stand in any note.
    _f("any", "On {date}, {co} acquired {maker}, a maker of {product}, for {money}. / "
              "{co} bought {maker}, which makes {product}, for {money} on {date}. / "
              "In a deal of {money}, {co} took over {maker}, a producer of {product}, on {date}.",
       "When was {maker} acquired? / On what date did {co} buy {maker}? => {date}",
       "What does {maker} make? / What are the products of {maker}? => {product}",
       "How much was paid for {maker}? / What was the purchase price of {maker}? => {money}"),
    _f("any", "In {month} {y} {co} sold its {city} site to {firm} for {money}. / "
              "{firm} bought the {city} site of {co} in {month} {y}, paying {money}.",
       "Who bought the {city} site? / To whom was the {city} site sold? => {firm}",
       "What was the {city} site sold for? / What was paid for the {city} site? => {money}",
       "When was the {city} site sold? / In which month was the sale of the {city} site? => "
       "{month} {y}"),
    _f("any", "{co} employed {n} people at the end of {y} and {n2} a year earlier. / "
              "The workforce was {n} at the end of {y}, after {n2} in {y1}.",
       "How many people worked for {co} at the end of {y}? / What was the size of the workforce "
       "in {y}? => {n}",
       "What was the change in the workforce from {y1} to {y}? / By how many people did the "
       "workforce change in {y}? => ={n}-{n2}",
       "What was the percentage change in the workforce in {y}? / By what percentage did the "
       "workforce change from {y1} to {y}? => =({n}-{n2})/{n2} # percent"),
    _f("any", "The revised {standard} was adopted on {date} {transition}. / {co} has applied the "
              "revised {standard} since {date} {transition}.",
       "Which standard was adopted? / What revised standard does {co} apply? => {standard}",
       "When was {standard} adopted? / Since when has {standard} been applied? => {date}",
       "How was {standard} adopted? / In what manner was the revised standard applied? => "
       "{transition}"),
    _f("any", "{co} defines {measure} as {definition}. / The term {measure} stands for "
              "{definition}. / By {measure}, {co} means {definition}.",
       "How is {measure} defined? / What does {measure} mean? / What is {measure}? => "
       "{definition}"),
    _f("any", "{co} uses {hedge} against {risk}. / To limit {risk}, {co} enters into {hedge}.",
       "What does {co} use against {risk}? / Which instruments limit {risk}? => {hedge}",
       "Which risk is hedged? / Against what risk are {hedge} used? => {risk}"),
    _f("any", "After the year-end, on {date1}, {co} agreed to sell {firm} to {fund}. / "
              "On {date1} {fund} agreed to buy {firm} from {co}.",
       "Who agreed to buy {firm}? / Who is the buyer of {firm}? => {fund}",
       "When was the sale of {firm} agreed? / On what date was the sale agreed? => {date1}",
       "Which business will {fund} buy? / What did {co} agree to sell? => {firm}"),
    # Revenue and its customers.
    _f("revenue", "Sales to {firm} were {pct} of the total, and to {firm2} {pct2}. / "
                  "{firm} contributed {pct} of revenue and {firm2} {pct2}.",
       "What part of revenue came from {firm}? / How large was the share of {firm}? => {pct}",
       "What part of revenue came from {firm2}? / How large was the share of {firm2}? => {pct2}",
       "What were the shares of {firm} and {firm2}, respectively? / Which percentages of revenue "
       "came from {firm} and {firm2}? => *pct,pct2"),
    _f("revenue contract", "Revenue is recognised when {transfer}. / {co} recognises revenue when "
                           "{transfer}. / Sales are booked when {transfer}.",
       "When is revenue recognised? / At what point does {co} book revenue? / What triggers the "
       "recognition of revenue? => {transfer}"),
    _f("revenue stores", "New {place} were opened in {items}. / During the year {co} opened "
                         "{place} in {items}. / {co} added {place} in {items}.",
       "Where were new {place} opened? / In which cities did {co} open {place}? => *items",
       "In how many cities were {place} opened? / How many cities received new {place}? => #items",
       lists="cities"),
    _f("revenue volume contract", "The order book stood at {money} in {month} {y}, of which {pct} "
       "is due within a year. / At the end of {month} {y} orders worth {money} were open; {pct} of "
       "them fall due within a year.",
       "What was the value of the order book? / How large was the order backlog? => {money}",
       "What share of orders is due within a year? / Which part of the order book falls due "
       "within a year? => {pct}"),
    _f("event", "{row} will host the {city} fair in {next}, expected to draw {n} exhibitors. / "
                "The {city} fair, with {n} exhibitors, goes to {row} in {next}.",
       "How many exhibitors will attend the {city} fair? / What number of exhibitors is expected? "
       "=> {n}", "When is the {city} fair? / In which year does the {city} fair take place? => "
       "{next}"),
    _f("stores staff", "{co} opened a training centre in {city} in {month} {y}; {n} people "
                       "attended. / A training centre in {city} opened in {month} {y} and taught "
                       "{n} people.",
       "Where was a training centre opened? / In which city is the training centre? => {city}",
       "How many people attended the training centre? / How many people were trained? => {n}",
       "When did the training centre open? / In which month was the training centre opened? => "
       "{month} {y}"),
    # Costs and staff.
    _f("cost closure staff", "The {city} plant was closed in {month} {y}, which affected {n} jobs. "
       "/ {co} closed its {city} plant in {month} {y}; {n} employees left.",
       "Which plant was closed? / Where was a plant closed? => {city}",
       "How many jobs were affected by the closure? / How many employees left because of the "
       "plant closure? => {n}",
       "When was the {city} plant closed? / In which month did the {city} plant close? => "
       "{month} {y}"),
    _f("cost closure", "Other costs consist of {items}. / The category 'other' comprises {items}.",
       "What do other costs consist of? / Which costs are included in 'other'? => *items",
       "How many kinds of cost does 'other' comprise? / How many types of other costs are "
       "there? => #items", lists="costs"),
    _f("closure", "The programme, run by {person}, saves {money} a year and ends in {future}. / "
                  "Led by {person}, the plan ends in {future} and saves {money} a year.",
       "How much is saved each year? / What are the annual savings? => {money}",
       "When does the programme end? / In which year will the plan be complete? => {future}",
       "Who runs the programme? / Who is responsible for the plan? => {person}"),
    _f("staff", "Staff turnover was {pct} in {y} and {pct2} in {y1}. / In {y} {pct} of staff left, "
                "compared with {pct2} in {y1}.",
       "What was staff turnover in {y}? / What share of staff left in {y}? => {pct}",
       "What was staff turnover in {y1}? / What share of staff left in {y1}? => {pct2}",
       "What was staff turnover in {y} and {y1}, respectively? => *pct,pct2"),
    # Pensions and shares.
    _f("pension", "The plan covers employees in {items}. / {co} runs pension plans in {items}.",
       "In which countries are there plans? / Where does {co} have pension plans? => *items",
       "How many countries have a pension plan? / In how many countries does {co} run pension "
       "plans? => #items", lists="countries"),
    _f("pension", "The plan was closed to new members on {date}; its assets are managed by {fund}. "
                  "/ {fund} manages the plan, which was closed to new members on {date}.",
       "When was the plan closed to new members? / On what date did the plan close? => {date}",
       "Who manages the plan? / Which firm manages the assets of the plan? => {fund}"),
    _f("pension", "{co} expects to pay {money} into the plan in {next}. / Contributions of {money} "
                  "to the plan are due in {next}.",
       "How much will be paid into the plan in {next}? / What contributions are expected for "
       "{next}? => {money}"),
    _f("shares", "Options vest over {small} years and expire {small2} years after grant. / The "
                 "awards vest in {small} years; they lapse after {small2} years.",
       "Over what period do the awards vest? / How long is the vesting period? => {small} years",
       "After how long do the awards expire? / When do unexercised awards lapse? => "
       "{small2} years"),
    _f("shares", "Unrecognised cost of {money} will be expensed over {small}.{digit} years. / At "
                 "year-end, {money} of cost was unrecognised, with {small}.{digit} years to run.",
       "What was the unrecognised cost? / How much cost had not been recognised yet? => {money}",
       "Over what period will the unrecognised cost be expensed? / How long does the unrecognised "
       "cost have to run? => {small}.{digit} years"),
    _f("shares dividend", "In {month} {y} the board approved a buy-back of {money}, ending in "
       "{next}. / A share buy-back of {money} was approved in {month} {y} and ends in {next}.",
       "How large is the share buy-back? / What amount of buy-back was approved? => {money}",
       "When was the buy-back approved? / In which month did the board approve the buy-back? => "
       "{month} {y}", "When does the buy-back end? / In which year is the buy-back over? => "
       "{next}"),
    # Debt, leases, tax, cash.
    _f("debt cash lease", "The {money} credit facility with {bank} matures in {future} and bears "
       "interest of {rate}. / {bank} granted a facility of {money} at {rate}, which runs until "
       "{future}.",
       "How large is the credit facility? / What is the amount of the facility? => {money}",
       "When does the facility mature? / In which year does the credit facility end? => {future}",
       "Which interest rate does the facility bear? / What is the interest on the credit facility? "
       "=> {rate}", "Who is the lender of the facility? / Which bank granted the facility? => "
       "{bank}"),
    _f("debt loans", "The loans are secured by {items}. / Lenders hold a pledge over {items}.",
       "What are the loans secured by? / Which assets secure the debt? => *items",
       "How many classes of assets secure the debt? / How many kinds of assets are pledged? => "
       "#items", lists="pledges"),
    _f("debt loans cash", "Net debt must stay below {small}.{digit} times EBITDA; it was "
       "{tiny}.{digit2} times in {y}. / The covenant limits net debt to {small}.{digit} times "
       "EBITDA; the figure for {y} was {tiny}.{digit2} times.",
       "To what multiple of EBITDA is net debt limited? / What is the limit set by the covenant? "
       "=> {small}.{digit} times",
       "What was net debt as a multiple of EBITDA in {y}? / How high was net debt relative to "
       "EBITDA in {y}? => {tiny}.{digit2} times"),
    _f("lease", "{co} leases {items}. / Leases cover {items}. / The leases are for {items}.",
       "What does {co} lease? / Which assets are leased? => *items",
       "How many kinds of assets are leased? / How many asset classes do leases cover? => #items",
       lists="leased"),
    _f("lease", "The average lease term is {small}.{digit} years and the discount rate {rate}. / "
                "Leases have {small}.{digit} years left on average; the discount rate is {rate}.",
       "What is the average lease term? / How long do leases have left on average? => "
       "{small}.{digit} years",
       "Which discount rate is used for leases? / What is the discount rate? => {rate}"),
    _f("lease", "{co} rents its head office in {city} from {fund} until {future}. / The head "
                "office in {city} belongs to {fund} and is rented until {future}.",
       "Who owns the head office? / From whom is the head office rented? => {fund}",
       "Until when is the head office rented? / In which year does the office lease end? => "
       "{future}",
       "Where is the head office? / In which city is the head office rented? => {city}"),
    _f("tax", "Loss carryforwards of {money} expire in {future}. / {co} has tax losses of {money} "
              "that lapse in {future}.",
       "When do the tax losses expire? / In which year do loss carryforwards lapse? => {future}",
       "How large are the loss carryforwards? / What is the amount of tax losses? => {money}"),
    _f("tax", "The standard tax rate is {tax} in {country} and {tax2} in {country2}. / In "
              "{country} profits are taxed at {tax}, in {country2} at {tax2}.",
       "What is the tax rate in {country}? / At what rate are profits taxed in {country}? => "
       "{tax}", "What is the tax rate in {country2}? / Which rate applies in {country2}? => {tax2}",
       "What are the tax rates in {country} and {country2}, respectively? => *tax,tax2"),
    _f("tax", "Tax years from {past} are open to audit in {items}. / Returns filed since {past} "
              "may still be examined in {items}.",
       "In which countries are tax years open to audit? / Where may tax returns still be "
       "examined? => *items", "From which year are tax returns open to audit? / Since which year "
       "may returns be examined? => {past}", lists="countries"),
    _f("cash", "Cash of {money} is held in {country} and cannot be remitted freely. / {co} holds "
               "{money} in {country}, where transfers are restricted.",
       "How much cash is subject to restrictions? / What amount of cash cannot be moved freely? "
       "=> {money}", "In which country is cash restricted? / Where is the restricted cash held? "
       "=> {country}"),
    _f("audit", "{person} of {auditor} has signed the audit report since {past}. / {auditor} has "
                "been the auditor since {past}; {person} is the partner in charge.",
       "Who signs the audit report? / Who is the audit partner? => {person}",
       "Since when has {auditor} been in charge? / From which year does the mandate date? => "
       "{past}", "Which firm audits the accounts? / Who is the auditor? => {auditor}"),
    _f("audit", "Tax advice concerned {country}; due diligence concerned {maker}. / The auditor "
                "advised on tax in {country} and reviewed the books of {maker}.",
       "Which country did the tax advice concern? / For which country was tax advice given? => "
       "{country}", "Whose books were reviewed? / Which firm did the due diligence concern? => "
       "{maker}"),
    # Balance sheet.
    _f("inventory", "Inventories are valued at {basis}. / {co} measures inventories at {basis}.",
       "How are inventories valued? / On what basis are inventories measured? / At which value "
       "are inventories carried? => {basis}"),
    _f("inventory", "A fire at the {city} warehouse in {month} {y} destroyed {product} worth "
       "{money}. / In {month} {y}, {product} worth {money} were lost in a fire in {city}.",
       "Where was the fire? / Which city had a fire? => {city}",
       "What was the value of the goods lost? / How large was the fire loss? => {money}",
       "What goods were lost in the fire? / Which products did the fire destroy? => {product}"),
    _f("assets", "Machinery is depreciated over {small} to {small2} years by the {method} method. "
                 "/ The {method} method is used, with lives of {small} to {small2} years.",
       "Which depreciation method is used? / By what method are assets depreciated? => {method}",
       "Over how many years are assets depreciated? / What are the useful lives? => "
       "{small} to {small2} years"),
    _f("capex", "{co} is committed to spend {money} on {project} in {city}. / Commitments of "
                "{money} relate to {project} in {city}.",
       "How large are the commitments? / What amount is committed? => {money}",
       "What do the commitments relate to? / What will be built in {city}? => {project}",
       "Where is the project located? / In which city will {co} build? => {city}"),
    _f("intangible", "The impairment test used a discount rate of {rate} and growth of {growth}. / "
                     "Cash flows were discounted at {rate}, with growth of {growth}.",
       "Which discount rate was used in the impairment test? / What was the discount rate? => "
       "{rate}", "What growth rate was assumed? / Which growth did the test assume? => {growth}",
       "What were the discount rate and the growth rate, respectively? => *rate,growth"),
    _f("intangible", "The {brand} brand, bought in {past}, has an indefinite life. / Having an "
                     "indefinite life, the {brand} brand (bought in {past}) is not amortised.",
       "Which brand has an indefinite life? / What is the name of the brand? => {brand}",
       "When was the {brand} brand bought? / In which year was the brand purchased? => {past}"),
    _f("liability", "A claim by {firm} over {dispute} seeks {money}. / {firm} is suing {co} for "
                    "{money} over {dispute}.",
       "What is the dispute with {firm} about? / What does the claim concern? => {dispute}",
       "How much does {firm} claim? / What is the amount of the claim? => {money}",
       "Who is suing {co}? / Who brought the claim? => {firm}"),
    _f("receivable", "Invoices are due within {days} days; {firm} owed {pct} of the balance. / "
                     "Customers pay within {days} days, and {firm} owes {pct} of the balance.",
       "Within how many days are invoices due? / What are the payment terms? => {days} days",
       "Which customer owed {pct} of the balance? / Who is the largest debtor? => {firm}",
       "What share of the balance does {firm} owe? / How much of the balance is due from {firm}? "
       "=> {pct}"),
    # Mines and emissions.
    _f("volume emissions", "The {city} site stood still for {days} days in {month} {y} owing to "
       "{outage}. / Owing to {outage}, the {city} site stopped for {days} days in {month} {y}.",
       "Why did the {city} site stand still? / What stopped work in {city}? => {outage}",
       "For how many days did the {city} site stop? / How long was the stoppage? => {days} days"),
    _f("emissions", "{co} aims to cut emissions by {pct} by {future}, mainly with {energy}. / The "
                    "target is a cut of {pct} by {future} through the use of {energy}.",
       "By how much are emissions to be cut? / What cut in emissions is planned? => {pct}",
       "By which year is the target to be met? / What is the target year? => {future}",
       "What means will be used to meet the target? / How will emissions be cut? => {energy}"),
)
