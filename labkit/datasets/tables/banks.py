"""Words the facts of the embedded set are filled with: places, firms, reasons, dates.

`BANKS` holds what a slot may draw. `REASONS` holds, for each kind of topic, why a number went up
and why it went down; a reason carries slots of its own, so that the same sentence hardly ever
comes twice. Names are invented. Alternatives are split at ";".
"""

from __future__ import annotations

BANKS: dict[str, str] = {
    "cities": "Oslo;Porto;Leeds;Turin;Lyon;Krakow;Graz;Malmo;Cork;Bergen;Ghent;Basel;Austin;Denver;"
              "Tampa;Boise;Omaha;Perth;Osaka;Pune;Lima;Quito;Bristol;Dresden;Nantes;Seville;"
              "Zagreb;Halifax;Durban;Izmir;Hanoi;Utrecht;Bremen;Aberdeen;Toledo;Tallinn;Riga;"
              "Parma;Linz;Bilbao;Antwerp;Derby;Salem;Fargo",
    "countries": "Ireland;Norway;Spain;Poland;Mexico;Japan;Chile;Turkey;Egypt;India;Kenya;Peru;"
                 "Italy;Greece;Sweden;Belgium;Brazil;Canada;Vietnam;Morocco;Austria;Denmark;"
                 "Finland;Ghana;Malaysia;Portugal;Hungary;Iceland",
    "months": "January;February;March;April;May;June;July;August;September;October;November;"
              "December",
    "products": "valves;bearings;paints;surgical gloves;solar panels;door locks;hearing aids;"
                "bakery ovens;truck tyres;optical sensors;office chairs;water pumps;pet food;"
                "dental drills;rail brakes;yoghurt;board games;steel cables;printed labels;"
                "garden tools;drones;batteries;cosmetics;ski boots;fertiliser;lift motors;"
                "baby clothes;wine glasses;gas meters;bicycle frames;smoke alarms;tea",
    "costs": "freight;rent;insurance;legal fees;travel;training;recruitment;cleaning;software;"
             "bank charges;postage;security;licence fees;donations",
    "pledges": "land;ships;inventories;receivables;patents;buildings;shares in subsidiaries;"
               "aircraft;bank deposits;machinery",
    "leased": "offices;warehouses;cars;forklifts;aircraft;shops;servers;trucks;car parks;printers",
    "places": "shops;depots;service centres;showrooms;warehouses;branches;outlets",
    "projects": "a warehouse;a paint shop;a wind farm;a data centre;a port terminal;a test track;"
                "a new head office;a recycling plant;a research centre;a solar park;a rail link;"
                "a training centre;a cold store",
    "transfers": "the goods leave the warehouse;the customer accepts the delivery;"
                 "control passes to the buyer;the service has been rendered;the goods reach the "
                 "port;the buyer confirms receipt;the licence key is sent;the installation is "
                 "complete;the goods are loaded;the contract milestone is met",
    "bases": "the lower of cost and net realisable value;first-in, first-out cost;weighted average "
             "cost;standard cost;fair value less costs to sell;the lower of cost and market value",
    "methods": "straight-line;declining balance;units of production;sum of the years' digits",
    "disputes": "a patent;late delivery;a faulty valve;unpaid royalties;a lease in {city};"
                "polluted soil in {city};a supply contract;product safety;overtime pay;"
                "a trade mark;building defects in {city};a cancelled order",
    "outages": "a strike;flooding;a power cut;a furnace repair;heavy snow;a lack of gas;"
               "a safety check;an explosion;a landslide;broken pumps",
    "people": "Ana Ruiz;Tom Berg;Lena Falk;Ivo Horak;Mei Tan;Sara Holm;Omar Aziz;Jan Kos;Eva Lind;"
              "Paul Reed;Nina Roth;Carl Dahl;Rosa Pinto;Hugo Petit;Amy Clarke;Ravi Nair;"
              "Kate Moore;Luca Conti;Olga Sokol;Ben Ward;Erik Lund;Maya Levi;Jack Stone;"
              "Clara Weiss;Ian Boyd;Lucy Hale;Marta Nowak;Peter Vogel",
    "standards": "IAS 12;IAS 16;IAS 19;IAS 21;IAS 23;IAS 36;IAS 37;IAS 38;IFRS 2;IFRS 3;IFRS 8",
    "transitions": "retrospectively;prospectively;with the modified retrospective method;"
                   "with the full retrospective method;without restating prior years",
    # Read together: the n-th hedge is one against the n-th risk; likewise measures, definitions.
    "hedges": "forward contracts;currency swaps;interest rate swaps;interest rate caps;metal "
              "futures;put options on gas;credit insurance;bank guarantees;standby credit lines;"
              "inflation swaps",
    "risks": "currency risk;currency risk;interest rate risk;interest rate risk;commodity price "
             "risk;energy price risk;credit risk;counterparty risk;liquidity risk;inflation risk",
    "measures": "adjusted EBITDA;free cash flow;organic growth;capital employed;backlog;"
                "underlying profit;net debt;like-for-like growth",
    "definitions": "profit before interest, tax and depreciation;cash flow after capital spending;"
                   "growth without acquisitions;fixed assets plus working capital;signed orders "
                   "not yet delivered;profit before one-off items;debt less cash;"
                   "growth in units open for a year",
    "energies": "biogas;solar power;wind power;hydrogen;heat pumps;electric vans;waste heat",
    "stems": "Alder;Brix;Calder;Dorn;Elm;Ferro;Gale;Hart;Irwin;Jura;Kestrel;Lark;Marl;Nord;Orrin;"
             "Pell;Quill;Rook;Sable;Tarn;Ulver;Vance;Wren;Yarrow;Zell;Birch;Crest;Dray;Holt;"
             "Amber;Boreal;Cobb;Delta;Ember;Finch;Grove;Heron;Iris;Juno;Karst;Lumen;Moss;Nile;"
             "Otter;Pine;Raven;Sigma;Thorn;Vega;Willow",
    "trades": "Foods;Labs;Systems;Tools;Motors;Energy;Paper;Glass;Textiles;Medical;Marine;Steel;"
              "Software;Freight;Plastics;Optics;Chemicals;Robotics",
    "works": "Works;Industries;Brothers;Products;& Sons;Manufacturing;Partners",
    "funds": "Capital;Asset Management;Trustees;Advisers",
}

REASONS: dict[str, tuple[str, str]] = {
    "segment": (
        "higher prices in {country};the purchase of {firm};new contracts in {country};"
        "a large order from {firm};a weaker {currency};the first full year of {firm};"
        "strong demand in {country};more customers in {country};a tax rebate in {country};"
        "the exit of a rival in {country};the opening of the {city} site",
        "weak demand in {country};lower prices in {country};the sale of {firm};a stronger "
        "{currency};the loss of a contract with {firm};delayed orders from {firm};"
        "a strike in {city};tougher competition in {country};the closure of the {city} site"),
    "region": (
        "price rises in {month};the purchase of {firm};a large order from {firm};"
        "a contract with {firm} signed in {month};a weaker {currency};"
        "the first full year of {firm};longer opening hours since {month};"
        "a marketing campaign in {month};the sales alliance with {firm}",
        "price cuts in {month};the sale of {firm};the loss of {firm} as a customer;"
        "a strike in {month};delayed orders from {firm};a stronger {currency};"
        "the end of the alliance with {firm};a product recall in {month}"),
    "cost": (
        "higher wages in {country};the move to {city};new staff in {city};a new plant in {city};"
        "the takeover of {firm};higher rates charged by {firm};a trade fair in {city};"
        "higher tariffs in {country};start-up costs in {city}",
        "the closure of the {city} office;fewer contractors in {country};a new supply contract "
        "with {firm};savings in {city};lower wages in {country};the end of a project with {firm};"
        "cheaper energy in {country}"),
    "pension": (
        "a change of plan rules in {country};lower bond yields in {country};the transfer of staff "
        "from {firm};higher inflation in {country};longer life expectancy in {country}",
        "higher bond yields in {country};the closure of the plan in {country};a lump sum paid in "
        "{country};the transfer of members to {firm};staff leaving in {city}"),
    "grants": (
        "awards granted in {month};the takeover of {firm};a higher share price in {month};"
        "awards to staff in {city};faster vesting after the purchase of {firm}",
        "fewer awards in {month};forfeited awards in {city};a lower share price in {month};"
        "awards lost by staff leaving {city};the expiry of awards in {month}"),
    "tax": (
        "a new tax law in {country};higher profits in {country};a tax audit in {country};"
        "the end of a tax holiday in {country};a change of tax rate in {country}",
        "the use of losses in {country};a lower tax rate in {country};a ruling in {country};"
        "the sale of the business in {country};a settlement in {country}"),
    "interest": (
        "the loan raised from {bank};higher rates since {month};the bond issued in {month};"
        "a weaker {currency};fees charged by {bank}",
        "the loan repaid to {bank};lower rates since {month};the bond redeemed in {month};"
        "new terms agreed with {bank};a stronger {currency}"),
    "capex": (
        "the purchase of {firm};the new plant in {city};a building bought in {city};"
        "the expansion in {country};works at the {city} site;a site taken over from {firm}",
        "the sale of {firm};the exit from {country};the end of works in {city};"
        "a delay at the {city} site;a site sold to {firm};write-downs in {country}"),
    "inventory": (
        "stocking up before {month};the purchase of {firm};slow sales in {country};"
        "a late shipment to {firm};the new depot in {city};bulk buying in {month}",
        "strong sales in {country};the sale of {firm};a write-down in {city};"
        "leaner stocks in {city};a large delivery to {firm};the closed depot in {city}"),
    "liability": (
        "a claim in {country};the purchase of {firm};a court ruling in {country};"
        "a dispute with {firm};new rules in {country};a recall in {country}",
        "a settlement with {firm};a payment to {firm};the exit from {country};"
        "a court ruling in {country};the sale of {firm};a deal with staff in {city}"),
    "debt": (
        "the purchase of {firm};a draw-down in {month};money raised from {bank};"
        "the plant built in {city};a weaker {currency};a bridge loan from {bank}",
        "a repayment in {month};the sale of {firm};early redemption in {month};"
        "a refinancing with {bank};a stronger {currency};instalments paid to {bank}"),
    "receivable": (
        "late payment by {firm};growth in {country};a large invoice to {firm};"
        "the purchase of {firm};longer terms in {country};billing delays in {month}",
        "a payment by {firm};the sale of {firm};quicker billing since {month};"
        "shorter terms in {country};a settlement with {firm};advances used in {month}"),
    "goodwill": (
        "the purchase of {firm};a weaker {currency};the takeover of {firm} in {month}",
        "an impairment in {country};the sale of {firm};a stronger {currency};"
        "a write-down after losses in {city}"),
    "cash": (
        "the sale of {firm};a payment by {firm} in {month};a loan from {bank};"
        "the share issue in {month};strong sales in {country}",
        "the purchase of {firm};the dividend paid in {month};a repayment to {bank};"
        "the share buy-back in {month};the plant built in {city}"),
    "staff": (
        "the takeover of {firm};hiring in {country};a second shift in {city};the new {city} office;"
        "work moved in from {city};contracts won in {country}",
        "the sale of {firm};lay-offs in {country};early retirement in {city};"
        "a hiring freeze since {month};the closed {city} office;work moved to {firm}"),
    "stores": (
        "the purchase of {firm};openings in {month};a franchise deal with {firm};"
        "sites taken over from {firm}",
        "closures in {month};the sale of sites to {firm};leases ending in {month};"
        "the end of the deal with {firm}"),
    "volume": (
        "a new pit in {country};more shifts since {month};strong demand from {firm};"
        "better ore grades in {country};the mine bought from {firm};a new mill in {country}",
        "a strike in {month};drought in {country};the mine sold to {firm};flooding in {country};"
        "repairs in {month};lower ore grades in {country};lower orders from {firm}"),
    "emissions": (
        "the purchase of {firm};more shifts in {city};growth in {country};a cold winter in "
        "{country};the new plant in {city};the loss of green power in {country}",
        "the sale of {firm};green power in {country};a new boiler in {city};"
        "the closed plant in {city};mild weather in {country};savings in {city}"),
    "margin": (
        "higher prices since {month};the purchase of {firm};a weaker {currency};"
        "fewer discounts in {country};a supply deal with {firm};a better mix in {country}",
        "discounts in {month};the sale of {firm};a stronger {currency};price cuts in {country};"
        "fees paid to {firm};dearer freight since {month}"),
}
