"""Facts of the embedded set: sentences that stand beside a table, and what can be asked of them.

A fact is a sentence with slots and a few questions. An answer is written after `=>`:

    {date}                 a span: the slot's text, which therefore occurs in the sentence
    *items                 a multi-span: every entry of the list slot `items`
    #items                 a count: how many entries the list slot has
    =({a}-{b})/{b} # percent   arithmetic on numbers of the sentence, with its scale
    @cell                  the table's cell of the line item `row` (needs table and sentence)
    =@share                the slot `part` over that cell, in percent

Alternatives of one wording are separated by ` / `. A slot may carry a digit (`{firm2}`) to draw a
second, different value; `{why}` draws a reason that fits the topic and the direction.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Fact:
    """A sentence beside a table."""

    tags: str
    """Topics it fits: words also found in `Topic.tags`, or 'any'."""
    sentences: tuple[str, ...]
    asks: tuple[str, ...]
    lists: str = ""
    """Bank the list slot {items} draws from, if the sentence has one."""


def _f(tags: str, sentence: str, *asks: str, lists: str = "") -> Fact:
    return Fact(tags=tags, sentences=tuple(sentence.split(" / ")), asks=asks, lists=lists)


_WHY_UP = "Why did {x} increase in {y}? / What drove the rise in {x} in {y}? / " \
          "What was the main reason for the higher {bare} in {y}? / " \
          "What explains the increase in {x}? => {why}"
_WHY_DOWN = "Why did {x} decrease in {y}? / What caused the fall in {x} in {y}? / " \
            "What was the main reason for the lower {bare} in {y}? / " \
            "What explains the decline in {x}? => {why}"

FACTS: tuple[Fact, ...] = (
    # Movements of a line item, true of the table beside which they stand.
    _f("up", "{X} rose in {y} because of {why}. / The rise in {x} in {y} reflects {why}. / "
             "{X} increased, mainly owing to {why}. / Higher {bare} in {y} was driven by {why}. / "
             "In {y}, {x} grew as a result of {why}.", _WHY_UP),
    _f("down", "{X} fell in {y} because of {why}. / The decline in {x} in {y} reflects {why}. / "
               "{X} decreased, mainly owing to {why}. / Lower {bare} in {y} was due to {why}. / "
               "In {y}, {x} shrank as a result of {why}.", _WHY_DOWN),
    # A line item described in the text: the question needs sentence and table.
    _f("business", "{Row} is run from {city} and has {n} employees. / "
                   "The head office of {row} is in {city}, where {n} people work. / "
                   "{Row} is managed from {city} by a team of {n}.",
       "Where is {row} managed from? / From which city is {row} run? => {city}",
       "What was {of} run from {city} {when}? / How large was {of} managed from {city} {when}? "
       "=> @cell"),
    _f("business", "{Row} is led by {person}, who joined in {past}. / "
                   "{person} has been head of {row} since {past}.",
       "Who leads {row}? / Who is the head of {row}? => {person}",
       "Since when has {person} been with {row}? / In which year did {person} join? => {past}",
       "What was {of} led by {person} {when}? / How much was {of} headed by {person} {when}? "
       "=> @cell"),
    _f("part", "Of {cellname}, {part} came from {firm}. / {firm} accounted for {part} of "
               "{cellname}. / {Cellname} includes {part} from {firm}.",
       "What share of {cellname} came from {firm}, in percent? / What percentage of {cellname} "
       "did {firm} account for? / How many percent of {cellname} related to {firm}? => =@share",
       "How much of {cellname} came from {firm}? / Which amount did {firm} contribute to "
       "{cellname}? => {part}"),
    # Business events.
    _f("any", "On {date}, {co} acquired {firm}, a maker of {product}, for {money}. / "
              "{co} bought {firm}, which makes {product}, for {money} on {date}. / "
              "In a deal of {money}, {co} took over {firm}, a producer of {product}, on {date}.",
       "When was {firm} acquired? / On what date did {co} buy {firm}? => {date}",
       "What does {firm} make? / What are the products of {firm}? => {product}",
       "How much was paid for {firm}? / What was the price of {firm}? => {money}"),
    _f("any", "In {month} {y} {co} sold its {city} site to {firm} for {money}. / "
              "{firm} bought the {city} site of {co} in {month} {y}, paying {money}.",
       "Who bought the {city} site? / To whom was the {city} site sold? => {firm}",
       "What was the {city} site sold for? / What did the buyer pay for the {city} site? => "
       "{money}", "When was the {city} site sold? => {month} {y}"),
    _f("revenue", "Sales to {firm} were {pct} of the total, and to {firm2} {pct2}. / "
                  "{firm} contributed {pct} of revenue and {firm2} {pct2}.",
       "What part of revenue came from {firm}? / How large was the share of {firm}? => {pct}",
       "What were the shares of {firm} and {firm2}, respectively? / Which percentages of revenue "
       "came from {firm} and {firm2}? => *pct,pct2"),
    _f("revenue", "Revenue is recognised when {transfer}. / "
                  "{co} recognises revenue when {transfer}.",
       "When is revenue recognised? / At what point does {co} recognise revenue? => "
       "{transfer}"),
    _f("revenue inventory volume stores", "New {place} were opened in {items}. / "
       "During the year {co} opened {place} in {items}. / "
       "{co} added {place} in {items}.",
       "Where were new {place} opened? / In which cities did {co} open {place}? => *items",
       "In how many cities were {place} opened? / How many cities received new {place}? => "
       "#items", lists="cities"),
    _f("revenue volume inventory", "The order book stood at {money} in {month} {y}, of which "
       "{pct} is due within a year. / At the end of {month} {y} orders worth {money} were open; "
       "{pct} of them fall due within a year.",
       "What was the value of the order book? / How large was the order backlog? => {money}",
       "What share of orders is due within a year? / Which part of the order book falls due "
       "within a year? => {pct}"),
    _f("cost", "The {city} plant was closed in {month} {y}, which affected {n} jobs. / "
               "{co} closed its {city} plant in {month} {y}; {n} employees left.",
       "Which plant was closed? / Where was a plant closed? => {city}",
       "How many jobs were affected by the closure? / How many employees left because of the "
       "plant closure? => {n}", "When was the {city} plant closed? => {month} {y}"),
    _f("cost staff", "Other costs consist of {items}. / The category 'other' comprises {items}.",
       "What do other costs consist of? / Which costs are included in 'other'? => *items",
       "How many kinds of cost does 'other' comprise? / How many types of other costs are "
       "there? => #items", lists="costs"),
    _f("any", "{co} employed {n} people at the end of {y} and {n2} a year earlier. / "
              "The workforce was {n} at the end of {y}, after {n2} in {y1}.",
       "How many people worked for {co} at the end of {y}? / What was the size of the workforce "
       "in {y}? => {n}",
       "What was the change in the workforce from {y1} to {y}? / By how many people did the "
       "workforce change in {y}? => ={n}-{n2}",
       "What was the percentage change in the workforce in {y}? / By what percentage did the "
       "workforce change from {y1} to {y}? => =({n}-{n2})/{n2} # percent"),
    # Pensions, shares, staff.
    _f("pension", "The plan covers employees in {items}. / {co} runs pension plans in {items}.",
       "In which countries are there plans? / Where does {co} have pension plans? => *items",
       "How many countries have a pension plan? / In how many countries does {co} run pension "
       "plans? => #items", lists="countries"),
    _f("pension", "The plan was closed to new members on {date}; its assets are managed by "
                  "{firm}. / {firm} manages the plan, which was closed to new members on {date}.",
       "When was the plan closed to new members? => {date}",
       "Who manages the plan? / Which firm manages the assets of the plan? => {firm}"),
    _f("pension", "{co} expects to pay {money} into the plan in {next}. / "
                  "Contributions of {money} are planned for {next}.",
       "How much will {co} contribute to the plan in {next}? / What contributions are expected "
       "for {next}? => {money}"),
    _f("shares", "Options vest over {small} years and expire {small2} years after grant. / "
                 "The awards vest in {small} years; they lapse after {small2} years.",
       "Over what period do the awards vest? / How long is the vesting period? => {small} years",
       "After how long do the awards expire? / When do unexercised awards lapse? => "
       "{small2} years"),
    _f("shares", "Unrecognised cost of {money} will be expensed over {small}.{digit} years. / "
                 "At year-end, {money} of cost was unrecognised, with {small}.{digit} years to "
                 "run.",
       "What was the unrecognised cost? / How much cost had not been recognised yet? => {money}",
       "Over how many years will the unrecognised cost be expensed? / How many years remain for "
       "the unrecognised cost? => {small}.{digit}"),
    _f("shares", "In {month} {y} the board approved a buy-back of {money}, ending in {next}. / "
                 "A share buy-back of {money} was approved in {month} {y} and ends in {next}.",
       "How large is the share buy-back? / What amount of buy-back was approved? => {money}",
       "When was the buy-back approved? => {month} {y}", "When does the buy-back end? => {next}"),
    _f("staff stores", "{co} opened a training centre in {city} in {month} {y}; {n} people "
                       "attended. / A training centre opened in {city} in {month} {y} and taught "
                       "{n} people.",
       "Where was a training centre opened? / In which city is the training centre? => {city}",
       "How many people attended the training centre? / How many were trained? => {n}",
       "When did the training centre open? => {month} {y}"),
    # Debt, leases, tax, cash.
    _f("debt cash lease", "The {money} credit facility with {firm} matures in {future} and bears "
                          "interest of {pct}. / {firm} granted a facility of {money} at {pct}, "
                          "which runs until {future}.",
       "How large is the credit facility? / What is the amount of the facility? => {money}",
       "When does the facility mature? / In which year does the credit facility end? => "
       "{future}", "Which interest rate does the facility bear? / What is the interest on the "
       "credit facility? => {pct}", "Who is the lender of the facility? => {firm}"),
    _f("debt", "The loans are secured by {items}. / Lenders hold a pledge over {items}.",
       "What are the loans secured by? / Which assets secure the debt? => *items",
       "How many classes of assets secure the debt? / How many kinds of assets are pledged? => "
       "#items", lists="pledges"),
    _f("debt cash", "Net debt must stay below {small}.{digit} times EBITDA; it was {tiny}.{digit2} "
                    "times in {y}. / The covenant limits net debt to {small}.{digit} times EBITDA; "
                    "the figure for {y} was {tiny}.{digit2} times.",
       "To what multiple of EBITDA is net debt limited? / What is the limit set by the covenant? "
       "=> {small}.{digit} times",
       "What was net debt as a multiple of EBITDA in {y}? => {tiny}.{digit2} times"),
    _f("lease", "Leases cover {items} and run for {small} to {small2} years. / "
                "{co} leases {items} for terms of {small} to {small2} years.",
       "What does {co} lease? / Which assets are leased? => *items",
       "How many kinds of assets are leased? / How many asset classes do leases cover? => #items",
       "For how long do leases run? / What are the lease terms? => {small} to {small2} years",
       lists="leased"),
    _f("lease", "The weighted average lease term is {small}.{digit} years and the discount rate "
                "{pct}. / Leases have {small}.{digit} years left on average; the discount rate "
                "is {pct}.",
       "What is the average lease term? / How long do leases have left on average? => "
       "{small}.{digit} years",
       "Which discount rate is used for leases? / What is the discount rate? => {pct}"),
    _f("tax", "Loss carryforwards of {money} expire in {future}. / {co} has tax losses of {money} "
              "that lapse in {future}.",
       "When do the tax losses expire? / In which year do loss carryforwards lapse? => {future}",
       "How large are the loss carryforwards? / What is the amount of tax losses? => {money}"),
    _f("tax", "The effective rate was {pct} in {y} and {pct2} in {y1}. / "
              "The tax rate came to {pct}, against {pct2} in {y1}.",
       "What was the effective tax rate in {y}? / Which tax rate applied in {y}? => {pct}",
       "What was the tax rate in {y1}? => {pct2}",
       "What were the tax rates in {y} and {y1}, respectively? / Which tax rates are given for "
       "{y} and {y1}? => *pct,pct2"),
    _f("tax", "Tax years from {past} are open to audit in {items}. / Returns filed since {past} "
              "may still be examined in {items}.",
       "In which countries are tax years open to audit? / Where may tax returns still be "
       "examined? => *items", "From which year are tax returns open to audit? / Since which year "
       "may returns be examined? => {past}", lists="countries"),
    _f("cash", "Cash of {money} is held in {country} and cannot be remitted freely. / "
               "{co} holds {money} in {country}, where transfers are restricted.",
       "How much cash is subject to restrictions? / What amount of cash cannot be moved freely? "
       "=> {money}", "In which country is cash restricted? / Where is the restricted cash held? "
       "=> {country}"),
    _f("audit", "{person} of {firm} has signed the audit report since {past}. / "
                "{firm} has been the auditor since {past}; {person} is the partner in charge.",
       "Who signs the audit report? / Who is the audit partner? => {person}",
       "Since when has {firm} been the auditor? / In which year did {firm} take up the audit? => "
       "{past}", "Which firm audits the accounts? / Who is the auditor? => {firm}"),
    # Balance sheet.
    _f("inventory", "Inventories are valued at {basis}. / {co} measures inventories at {basis}.",
       "How are inventories valued? / On what basis does {co} measure inventories? => {basis}"),
    _f("inventory volume", "A fire at the {city} warehouse in {month} {y} destroyed {product} "
                           "worth {money}. / In {month} {y}, {product} worth {money} was lost in "
                           "a fire in {city}.",
       "Where was the fire? / Which city had a fire? => {city}",
       "What was the value of the goods lost? / How large was the fire loss? => {money}",
       "What goods were lost in the fire? => {product}"),
    _f("assets", "Machinery is depreciated over {small} to {small2} years by the {method} "
                 "method. / The {method} method is used, with lives of {small} to {small2} years.",
       "Which depreciation method is used? / By what method are assets depreciated? => {method}",
       "Over how many years is machinery depreciated? / What are the useful lives? => "
       "{small} to {small2} years"),
    _f("assets", "{co} is committed to spend {money} on {project} in {city}. / "
                 "Commitments of {money} relate to {project} in {city}.",
       "How large are the commitments? / What amount is committed? => {money}",
       "What do the commitments relate to? / What will be built in {city}? => {project}",
       "Where is the project located? => {city}"),
    _f("intangible", "The impairment test used a discount rate of {pct} and growth of {pct2}. / "
                     "Cash flows were discounted at {pct}, with growth of {pct2}.",
       "Which discount rate was used in the impairment test? / What was the discount rate? => "
       "{pct}", "What growth rate was assumed? / Which growth did the test assume? => {pct2}",
       "What were the discount rate and the growth rate, respectively? => *pct,pct2"),
    _f("intangible", "The {firm} brand has an indefinite life and was tested in {month} {y}. / "
                     "Tested in {month} {y}, the {firm} brand has an indefinite life.",
       "Which brand has an indefinite life? => {firm}",
       "When was the brand tested? / When did the impairment test take place? => {month} {y}"),
    _f("liability", "A claim by {firm} over {dispute} seeks {money}. / "
                    "{firm} is suing {co} for {money} over {dispute}.",
       "What is the dispute with {firm} about? / What does the claim concern? => {dispute}",
       "How much does {firm} claim? / What is the amount of the claim? => {money}"),
    _f("receivable contract", "Invoices are due within {days} days; {firm} owed {pct} of the "
                              "balance. / Customers pay within {days} days, and {firm} owes {pct} "
                              "of the balance.",
       "Within how many days are invoices due? / What are the payment terms? => {days} days",
       "Which customer owed {pct} of the balance? / Who is the largest debtor? => {firm}",
       "What share of the balance does {firm} owe? => {pct}"),
    _f("contract", "{co} expects to recognise {pct} of open contracts in {next}. / "
                   "Of the open contracts, {pct} will become revenue in {next}.",
       "What share of open contracts becomes revenue in {next}? / How much of the open contracts "
       "will be recognised in {next}? => {pct}"),
    _f("volume", "The {city} site stood still for {days} days in {month} {y} owing to {outage}. / "
                 "Owing to {outage}, {city} stopped work for {days} days in {month} {y}.",
       "Why did the {city} site stand still? / What stopped work in {city}? => {outage}",
       "For how many days did the {city} site stop? / How long was the stoppage in {city}? => "
       "{days} days"),
)

BANKS: dict[str, str] = {
    "cities": "Oslo;Porto;Leeds;Turin;Lyon;Krakow;Graz;Malmo;Cork;Bergen;Ghent;Basel;Austin;Denver;"
              "Tampa;Boise;Omaha;Perth;Osaka;Pune;Lima;Quito;Bristol;Dresden;Nantes;Seville;Tallinn;"
              "Zagreb;Halifax;Durban;Izmir;Hanoi;Utrecht;Bremen;Aberdeen;Toledo",
    "countries": "Ireland;Norway;Spain;Poland;Mexico;Japan;Chile;Turkey;Egypt;India;Kenya;Peru;"
                 "Italy;Greece;Sweden;Belgium;Brazil;Canada;Vietnam;Morocco;Austria;Denmark",
    "months": "January;February;March;April;May;June;July;August;September;October;November;"
              "December",
    "products": "valves;bearings;paints;surgical gloves;solar panels;door locks;hearing aids;"
                "bakery ovens;truck tyres;optical sensors;office chairs;water pumps;pet food;"
                "dental drills;rail brakes;yoghurt;board games;steel cables;printed labels;"
                "cable ties;garden tools;drones;batteries;cosmetics;ski boots;fertiliser",
    "costs": "freight;rent;insurance;legal fees;travel;training;recruitment;energy;cleaning;"
             "software;bank charges;postage;security;licence fees;donations",
    "pledges": "land;ships;inventories;receivables;patents;buildings;shares in subsidiaries;"
               "aircraft;bank deposits;machinery",
    "leased": "offices;warehouses;cars;forklifts;aircraft;shops;servers;trucks;car parks;printers",
    "place": "shops;depots;service centres;showrooms;warehouses;laboratories;branches",
    "projects": "a warehouse;a paint shop;a wind farm;a data centre;a port terminal;a bakery;"
                "a test track;a new head office;a recycling plant;a research centre",
    "transfer": "the goods leave the warehouse;the customer accepts the delivery;"
                "control passes to the buyer;the service has been rendered;"
                "the goods reach the port;the invoice is approved;the licence key is sent;"
                "the installation is complete",
    "basis": "the lower of cost and net realisable value;first-in, first-out cost;"
             "weighted average cost;standard cost;fair value less costs to sell;"
             "the lower of cost and market value",
    "methods": "straight-line;declining balance;units of production;sum of the years' digits",
    "disputes": "a patent;late delivery;a faulty valve;unpaid royalties;a lease in Lyon;"
                "polluted soil;a supply contract;product safety;overtime pay;a trade mark",
    "outages": "a strike;flooding;a power cut;a furnace repair;heavy snow;a lack of gas;"
               "a safety check;an explosion",
    "people": "Ana Ruiz;Tom Berg;Lena Falk;Ivo Horak;Mei Tan;Sara Holm;Omar Aziz;Jan Kos;Eva Lind;"
              "Paul Reed;Nina Roth;Carl Dahl;Rosa Pinto;Hugo Petit;Amy Clarke;Ravi Nair;"
              "Kate Moore;Luca Conti;Olga Sokol;Ben Ward",
    "stems": "Alder;Brix;Calder;Dorn;Elm;Ferro;Gale;Hart;Irwin;Jura;Kestrel;Lark;Marl;Nord;Orrin;"
             "Pell;Quill;Rook;Sable;Tarn;Ulver;Vance;Wren;Yarrow;Zell;Birch;Crest;Dray;Falk;Holt",
    "trades": "Foods;Labs;Systems;Tools;Motors;Energy;Paper;Glass;Textiles;Medical;Marine;Steel;"
              "Software;Freight;Plastics;Optics;Chemicals;Robotics",
}

REASONS: dict[str, tuple[str, str]] = {
    "revenue": ("strong demand for {product};higher prices in {country};the purchase of {firm};"
                "new contracts in {country};the launch of {product} in {city};"
                "a large order from {firm};a weaker {currency};more visitors from {country}",
                "weak demand for {product};lower prices in {country};the sale of {firm};"
                "the loss of a contract with {firm};delayed orders from {firm};"
                "a strike in {city};tougher competition in {country};fewer visitors from {country}"),
    "cost": ("higher wages in {country};the move to {city};more staff in {city};"
             "dearer raw materials for {product};start-up costs of the {city} plant;"
             "the takeover of {firm}",
             "the closure of the {city} office;fewer contractors in {country};"
             "a new supply contract with {firm};savings in {city};lower wages in {country};"
             "the end of a project with {firm}"),
    "balance": ("the purchase of {firm};stocking up on {product};a prepayment by {firm};"
                "the new plant in {city};growth in {country};a stronger {currency}",
                "the sale of {firm};a payment to {firm};the exit from {country};"
                "a settlement with {firm};the closure of the {city} plant;a weaker {currency}"),
    "volume": ("a new line in {city};more shifts in {city};strong demand from {firm};"
               "the opening of the {city} site;the expansion in {country}",
               "a strike in {city};the sale of the {city} site;drought in {country};"
               "maintenance work in {city};lower orders from {firm}"),
    "pension": ("a change of plan rules in {country};lower bond yields in {country};"
                "higher inflation in {country};longer life expectancy in {country};"
                "the transfer of staff from {firm}",
                "higher bond yields in {country};the closure of the plan in {country};"
                "a lump sum paid in {country};the transfer of members to {firm}"),
    "tax": ("the new tax law in {country};higher profits in {country};"
            "the end of a tax holiday in {country};an audit in {country}",
            "a tax credit in {country};losses in {country};a lower tax rate in {country};"
            "a refund from {country}"),
}
